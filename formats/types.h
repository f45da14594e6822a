/* The shared words: result codes, error text, storage types, tensor descriptors.
 *
 * Everything here is plain data and can be used from any thread. */
#ifndef CCQ_FORMATS_TYPES_H
#define CCQ_FORMATS_TYPES_H

#include <stddef.h>
#include <stdint.h>

#ifdef __GNUC__
#define CCQ_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define CCQ_PRINTF(fmt, args)
#endif

/* Why a call failed. The name of a code is its spelling below; ccq_code_name()
 * gives it as text ("HEADER_LENGTH"). The tools turn codes into exit codes
 * (docs/ccq-quantize.1, EXIT STATUS). */
#define CCQ_CODES(X)                                                                               \
    X(OK) /* done */                                                                               \
    /* a safetensors file (docs/format.md) */                                                      \
    X(SHORT)         /* fewer than 8 bytes */                                                      \
    X(HEADER_LARGE)  /* header longer than 100,000,000 bytes */                                    \
    X(HEADER_LENGTH) /* header longer than the file */                                             \
    X(UTF8)          /* not valid UTF-8 */                                                         \
    X(JSON)          /* not the JSON that is wanted here */                                        \
    X(LIMIT)         /* nesting, name length, rank, tensor or number count over the limit */       \
    X(DUPLICATE)     /* the same key twice */                                                      \
    X(NAME)          /* a NUL in a name */                                                         \
    X(METADATA)      /* __metadata__ is not an object of strings */                                \
    X(DTYPE)         /* storage type unknown, missing, or not the one wanted */                    \
    X(SHAPE)         /* shape missing or not a list of integers, or not the one wanted */          \
    X(OFFSETS)       /* data_offsets missing, not two integers, or end < begin */                  \
    X(NUMBER)        /* a number that is not a plain unsigned 64-bit integer, or not finite */     \
    X(OVERLAP)       /* two tensors share bytes */                                                 \
    X(HOLE)          /* bytes between two tensors belong to none */                                \
    X(OVERFLOW)      /* element or byte count passes 2^64 */                                       \
    X(SUBBYTE)       /* a tensor that does not fill whole bytes */                                 \
    X(SIZE)          /* shape and data_offsets disagree */                                         \
    X(TRAILING)      /* bytes after the last tensor */                                             \
    X(TRUNCATED)     /* file ends before the last tensor does */                                   \
    X(CHANGED)       /* the file changed while it was read */                                      \
    X(NOT_A_FILE)    /* a directory, device, FIFO or socket */                                     \
    /* directory and index */                                                                      \
    X(PATH)          /* a shard name that is not a plain file name */                              \
    X(NO_SHARD)      /* a file named by the index is missing */                                    \
    X(INDEX)         /* index and shards disagree */                                               \
    X(NO_CONFIG)     /* config.json is missing */                                                  \
    X(CONFIG)        /* config.json and tensors disagree, or a key is missing or impossible */     \
    X(UNSUPPORTED)   /* well formed, known, and not handled */                                     \
    X(UNKNOWN)       /* a tensor name outside the table */                                         \
    X(INCOMPLETE)    /* a tensor that the model needs is missing */                                \
    X(NONFINITE)     /* NaN or Inf where a number is needed */                                     \
    X(CODE_RANGE)    /* code words outside [-32768, 32767] or not FMA-safe */                      \
    X(SHAPE_RULE)    /* an alignment rule of docs/format.md is broken */                           \
    X(MANIFEST)      /* content differs from ccq_manifest.json */                                  \
    /* npz, npy */                                                                                 \
    X(ZIP)           /* malformed zip archive */                                                   \
    X(CRC)           /* checksum differs */                                                        \
    X(NPY)           /* malformed npy header, or a type or order that is not read */               \
    X(PICKLE)        /* malformed pickle (.pdparams) */                                            \
    X(REFERENCE)     /* a reference or token file whose members do not fit together */             \
    /* the rest */                                                                                 \
    X(USAGE)         /* the caller asked for something impossible */                               \
    X(NO_INPUT)      /* input directory or named file missing or unreadable */                     \
    X(EXISTS)        /* output exists */                                                           \
    X(CREATE)        /* output cannot be created */                                                \
    X(IO)            /* read or write failed */                                                    \
    X(NO_SPACE)      /* disk full or too small */                                                  \
    X(NO_MEMORY)     /* out of memory */                                                           \
    X(UNAVAILABLE)   /* device or feature not here or not built in */                              \
    X(INTERRUPTED)   /* stopped by a signal */                                                     \
    X(BUG)           /* an internal check failed */

typedef enum ccq_code {
#define CCQ_CODE_ENUM(name) CCQ_##name,
    CCQ_CODES(CCQ_CODE_ENUM)
#undef CCQ_CODE_ENUM
} ccq_code;

const char *ccq_code_name(ccq_code code);

/* The place and the reason of a failure. One line without a final newline,
 * names from files already escaped:
 *   model-00003.safetensors: "layers.7.w1": data end 8192 > file 8000 */
typedef struct ccq_error {
    ccq_code code;
    char text[1000];
} ccq_error;

/* Fills err (NULL allowed) and returns code. A text too long is cut with "...". */
ccq_code ccq_fail(ccq_error *err, ccq_code code, const char *fmt, ...) CCQ_PRINTF(3, 4);

/* Copies name (len bytes, any content) to out, at most size bytes with the NUL:
 * control bytes, quotes, backslashes and invalid UTF-8 become \n, \", \xNN.
 * Cut with "..." when too long. Returns out. */
char *ccq_escape(char *out, size_t size, const char *name, size_t len);
/* The same of text whose names are escaped already: what they consist of then, quotes and
 * backslashes, stays as it is. */
char *ccq_escape_rest(char *out, size_t size, const char *text);

/* Storage types, spelled as in a safetensors header. */
#define CCQ_DTYPES(X)                                                                              \
    X(BOOL, 8) X(F4, 4) X(F6_E2M3, 6) X(F6_E3M2, 6) X(U8, 8) X(I8, 8) X(F8_E5M2, 8) X(F8_E4M3, 8)  \
    X(F8_E8M0, 8) X(F8_E4M3FNUZ, 8) X(F8_E5M2FNUZ, 8) X(I16, 16) X(U16, 16) X(F16, 16) X(BF16, 16) \
    X(I32, 32) X(U32, 32) X(F32, 32) X(C64, 64) X(F64, 64) X(I64, 64) X(U64, 64)

typedef enum ccq_dtype {
#define CCQ_DTYPE_ENUM(name, bits) CCQ_DT_##name,
    CCQ_DTYPES(CCQ_DTYPE_ENUM)
#undef CCQ_DTYPE_ENUM
        CCQ_DT_COUNT
} ccq_dtype;

const char *ccq_dtype_name(ccq_dtype dtype);
unsigned ccq_dtype_bits(ccq_dtype dtype);
/* CCQ_DT_COUNT when unknown. */
ccq_dtype ccq_dtype_parse(const char *name, size_t len);

#define CCQ_MAX_RANK 16

/* One tensor of a checkpoint. Owned by the checkpoint. */
typedef struct ccq_tensor {
    const char *name;      /* without NUL inside; not escaped */
    const uint64_t *shape; /* rank elements, outermost first */
    uint64_t offset;       /* of the first byte, from the start of the shard file */
    uint64_t bytes;
    uint32_t shard; /* index into the checkpoint's shards */
    uint8_t dtype;  /* ccq_dtype */
    uint8_t rank;
} ccq_tensor;

#endif
