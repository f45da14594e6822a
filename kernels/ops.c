#include "kernels/internal.h"

void ccq_ops_init(ccq_ops *ops, unsigned allowed)
{
    unsigned isa = allowed & ccq_cpu_isa();

    ops->name = "c";
    ccq_panel_init_c(&ops->panel);
    ccq_feedback_init_c(&ops->feedback);
    ops->search = ccq_search_c;
    ops->widen = ccq_widen_c;
    ops->round = ccq_round_c;
    ops->unpack = ccq_unpack_c;
    ops->product = ccq_product_c;
    ops->gemv = ccq_gemv_c;
    ops->rms = ccq_rms_c;
    ops->swiglu = ccq_swiglu_c;
    ops->rope = ccq_rope_c;
    ops->attend = ccq_attend_c;
#ifdef CCQ_HAVE_X86
    if (isa & CCQ_ISA_AVX2)
        ccq_ops_init_avx2(ops);
    if (isa & CCQ_ISA_AVX512)
        ccq_ops_init_avx512(ops);
#endif
    ccq_dense_init(&ops->dense, isa);
}
