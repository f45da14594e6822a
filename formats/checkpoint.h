/* A checkpoint directory as a set of named tensors.
 *
 * Opening reads headers and the index only; tensor data is read by range with
 * pread and never mapped. After opening a checkpoint is read-only: any number
 * of threads may find and read. */
#ifndef CCQ_FORMATS_CHECKPOINT_H
#define CCQ_FORMATS_CHECKPOINT_H

#include "formats/types.h"

typedef struct ccq_checkpoint ccq_checkpoint;

typedef struct ccq_shard {
    const char *name;     /* file name inside the directory */
    uint64_t size;        /* bytes */
    uint64_t header_size; /* N of the file: header bytes behind the 8-byte length; .pdparams: 0 */
    uint32_t header_crc;  /* CRC-32 of those 8 + N bytes; .pdparams: 0 */
} ccq_shard;

/* dir: model.safetensors.index.json with its shards, or model.safetensors (when
 * both are there the index wins if it names that file), or, with neither, every
 * *.pdparams file. NO_INPUT: dir is missing. NO_SHARD: none of these is there, or
 * a shard is missing. */
ccq_code ccq_checkpoint_open(ccq_checkpoint **ck, const char *dir, ccq_error *err);
/* One .safetensors or .pdparams file; its content says which. */
ccq_code ccq_checkpoint_open_file(ccq_checkpoint **ck, const char *path, ccq_error *err);
/* NULL is fine. */
void ccq_checkpoint_close(ccq_checkpoint *ck);

size_t ccq_checkpoint_count(const ccq_checkpoint *ck);
/* Sorted by name (bytes). */
const ccq_tensor *ccq_checkpoint_at(const ccq_checkpoint *ck, size_t i);
/* Constant time; NULL when absent. */
const ccq_tensor *ccq_checkpoint_find(const ccq_checkpoint *ck, const char *name);

size_t ccq_checkpoint_shards(const ccq_checkpoint *ck);
const ccq_shard *ccq_checkpoint_shard(const ccq_checkpoint *ck, size_t i);
/* 1 when an index was read. */
int ccq_checkpoint_indexed(const ccq_checkpoint *ck);
/* Tensors that a shard holds and the index does not name: count, i-th name. */
size_t ccq_checkpoint_unlisted(const ccq_checkpoint *ck);
const char *ccq_checkpoint_unlisted_name(const ccq_checkpoint *ck, size_t i);
/* 1 and *value when the index states metadata.total_size as an integer. */
int ccq_checkpoint_total_size(const ccq_checkpoint *ck, uint64_t *value);
/* "format" of the first shard's __metadata__, "" when absent. */
const char *ccq_checkpoint_format(const ccq_checkpoint *ck);

/* size bytes of the tensor's data from offset (both must lie inside it: BUG). In a
 * .pdparams file a tensor may be stored in slices or as a text (protocol 2); a text
 * is read fastest from front to back, and PICKLE when it is none. */
ccq_code ccq_checkpoint_read(const ccq_checkpoint *ck, const ccq_tensor *t, uint64_t offset,
                             void *dst, uint64_t size, ccq_error *err);
/* Size and mtime of every shard still those of opening, else CHANGED. */
ccq_code ccq_checkpoint_recheck(const ccq_checkpoint *ck, ccq_error *err);

/* ---- Writing --------------------------------------------------------------
 * A plan of shards, made from names, types and shapes alone: what --dry-run
 * prints is what is written. */
typedef struct ccq_layout ccq_layout;

typedef struct ccq_layout_tensor {
    const char *name;
    ccq_dtype dtype;
    int rank;
    uint64_t shape[4];
    /* filled by ccq_layout_finish */
    uint32_t shard;
    uint64_t offset; /* from the start of the shard file */
    uint64_t bytes;
} ccq_layout_tensor;

/* format: "np" or "pt". max_shard_bytes: tensor bytes of one shard, 0 = one
 * file; a tensor larger than that gets a shard of its own. */
ccq_layout *ccq_layout_new(const char *format, uint64_t max_shard_bytes);
void ccq_layout_free(ccq_layout *l);
/* The name is copied. Returns the tensor's number, or SIZE_MAX when out of memory. */
size_t ccq_layout_add(ccq_layout *l, const char *name, ccq_dtype dtype, int rank,
                      const uint64_t *shape);
/* Assigns shards (in order of adding), orders each one (item size descending,
 * then name) and sets offsets. No adding afterwards. */
ccq_code ccq_layout_finish(ccq_layout *l, ccq_error *err);
const ccq_layout_tensor *ccq_layout_at(const ccq_layout *l, size_t i);
size_t ccq_layout_count(const ccq_layout *l);
size_t ccq_layout_shards(const ccq_layout *l);
/* model.safetensors, or model-0000x-of-0000y.safetensors */
const char *ccq_layout_shard_name(const ccq_layout *l, size_t shard);
uint64_t ccq_layout_shard_bytes(const ccq_layout *l, size_t shard); /* whole file */
uint64_t ccq_layout_tensor_bytes(const ccq_layout *l);              /* all tensor data */
/* The 8 + N header bytes of a shard; owned by the layout. */
const void *ccq_layout_header(const ccq_layout *l, size_t shard, uint64_t *size);
/* Text of model.safetensors.index.json; the caller frees it. NULL: out of memory. */
char *ccq_layout_index(const ccq_layout *l, size_t *size);

#endif
