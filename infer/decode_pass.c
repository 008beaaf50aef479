/* decode_pass.c - see decode_pass.h. */
#include "infer/decode_pass.h"
#include <stdlib.h>
#include <string.h>

size_t decode_pass_aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }

size_t decode_pass_bytes(int max_rows, int max_seqs, int max_blocks) {
    size_t rows = (size_t)max_rows, n = (size_t)max_seqs;
    return 2 * decode_pass_aligned(rows * sizeof(int32_t)) + decode_pass_aligned(rows * sizeof(int64_t)) +
           4 * decode_pass_aligned((n + 1) * sizeof(int32_t)) + decode_pass_aligned(n * (size_t)max_blocks * sizeof(int32_t));
}

Status decode_pass_open(DecodePass *p, Model *m, Acts *acts, KvCache *cache, int max_rows, int max_seqs, int max_blocks, size_t extra,
                        Err *err) {
    *p = (DecodePass){.model = m, .acts = acts, .cache = cache, .max_seqs = max_seqs, .max_blocks = max_blocks};
    p->size = decode_pass_bytes(max_rows, max_seqs, max_blocks) + extra;
    p->records = m->graphs && device_kind(m->dev) == DEVICE_CUDA;
    p->host = xcalloc(p->size, 1);
    p->slot = xcalloc((size_t)max_rows, sizeof *p->slot);
    p->device = device_alloc(m->dev, p->size);
    if (p->device) return OK;
    return err_set(err, ERR_NOMEM, "%s has no memory for %d sequences at a time: use a smaller --batch", device_name(m->dev), max_seqs);
}

static void recording_free(DecodePass *p, StepRecording *r) {
    if (r->graph) device_graph_free(p->model->dev, r->graph);
    *r = (StepRecording){0};
}

void decode_pass_close(DecodePass *p) {
    for (int i = 0; i < STEP_RECORDINGS; i++) recording_free(p, &p->recording[i]);
    if (p->model) device_free(p->model->dev, p->device);
    free(p->host);
    free(p->slot);
    *p = (DecodePass){0};
}

void *decode_pass_add(DecodePass *p, size_t count, size_t size, void *device) {
    size_t at = p->used;
    p->used += decode_pass_aligned(count * size);
    REQUIRE(p->used <= p->size);
    char *there = p->device + at;
    memcpy(device, &there, sizeof there);
    return p->host + at;
}

void decode_pass_copy(DecodePass *p, const void *from, size_t count, size_t size, void *device) {
    memcpy(decode_pass_add(p, count, size, device), from, count * size);
}

void decode_pass_upload(DecodePass *p) {
    device_upload(p->model->dev, p->device, p->host, p->used);
    p->used = 0;
}

/* ---- laying out -------------------------------------------------------------------------------------------------- */

/* Pages for the tokens of n rows; how many tokens, and the most pages of a sequence. */
static Status rows_extend(DecodePass *p, const DecodeRow *row, int n, int *tokens, int *most, Err *err) {
    *tokens = 0, *most = 1;
    for (int i = 0; i < n; i++) {
        if (!kv_sequence_extend(p->cache, row[i].seq, row[i].count, p->slot + *tokens))
            return err_set(err, ERR_NOMEM, "the key-value cache is full: use a smaller --batch");
        if (row[i].seq->n_pages > *most) *most = row[i].seq->n_pages;
        *tokens += row[i].count;
    }
    return OK;
}

/* n rows of `tokens` tokens, for kernels launched for `rows` tokens in n_seq sequences.  Tokens behind the n rows are of no
 * sequence and not stored; sequences and groups behind them are empty. */
static void lay(DecodePass *p, const DecodeRow *row, int n, const int32_t *group_offset, const int32_t *group_shared, int n_group,
                int tokens, int n_seq, StepShape shape) {
    const size_t rows = (size_t)shape.rows, seqs = (size_t)n_seq, groups = (size_t)shape.groups, blocks = (size_t)shape.blocks;
    p->rows = shape.rows;
    p->pages = (PagedBatch){.pool = p->cache->pool, .n_seq = n_seq, .max_blocks = shape.blocks, .n_group = shape.groups};
    int32_t *token = decode_pass_add(p, rows, sizeof *token, &p->d_tokens);
    int32_t *position = decode_pass_add(p, rows, sizeof *position, &p->d_positions);
    int32_t *q_offset = decode_pass_add(p, seqs + 1, sizeof *q_offset, &p->pages.q_offset);
    int32_t *kv_len = decode_pass_add(p, seqs, sizeof *kv_len, &p->pages.kv_len);
    int32_t *table = decode_pass_add(p, seqs * blocks, sizeof *table, &p->pages.block_table);
    int64_t *slot = decode_pass_add(p, rows, sizeof *slot, &p->d_slot);
    int32_t *offset = decode_pass_add(p, groups + 1, sizeof *offset, &p->pages.group_offset);
    int32_t *shared = decode_pass_add(p, groups, sizeof *shared, &p->pages.group_shared);
    int at = 0;
    for (int i = 0; i < n; i++) {
        const KvSequence *s = row[i].seq;
        q_offset[i] = at;
        kv_len[i] = s->len;
        for (int j = 0; j < row[i].count; j++, at++) {
            token[at] = row[i].token[j];
            position[at] = s->len - row[i].count + j;
            slot[at] = p->slot[at];
        }
        int32_t *pages_of = table + (size_t)i * blocks;
        memcpy(pages_of, s->page, (size_t)s->n_pages * sizeof *pages_of);
        memset(pages_of + s->n_pages, 0, (blocks - (size_t)s->n_pages) * sizeof *pages_of);
    }
    memset(table + (size_t)n * blocks, 0, (seqs - (size_t)n) * blocks * sizeof *table);
    for (int i = n; i < n_seq; i++) kv_len[i] = 0;
    for (int i = n; i <= n_seq; i++) q_offset[i] = tokens;
    for (; at < shape.rows; at++) token[at] = position[at] = 0, slot[at] = -1;
    for (int g = 0; g <= shape.groups; g++) offset[g] = g < n_group ? group_offset[g] : n;
    for (int g = 0; g < shape.groups; g++) shared[g] = g < n_group ? group_shared[g] : 0;
}

Status decode_pass_lay(DecodePass *p, const DecodeRow *row, int n, const int32_t *group_offset, const int32_t *group_shared, int n_group,
                       Err *err) {
    int tokens, most;
    const Status s = rows_extend(p, row, n, &tokens, &most, err);
    if (!s) lay(p, row, n, group_offset, group_shared, n_group, tokens, n, (StepShape){tokens, most, n_group});
    return s;
}

static int power_of_two(int n) {
    int up = 1;
    while (up < n) up *= 2;
    return up;
}

/* Shapes that come again while futures end and their pages grow, so that few are recorded.  Rows: at most an eighth more, in
 * parts of 16, which products take as one.  What shares pages still does: there are fewer groups than rows. */
static StepShape shape_around(const DecodePass *p, int n, int most, int n_group) {
    int step = 16;
    while (16 * step <= n) step *= 2;
    StepShape s = {.rows = (n + step - 1) / step * step, .blocks = power_of_two(most), .groups = power_of_two(n_group)};
    if (s.rows > p->max_seqs) s.rows = p->max_seqs;
    if (s.blocks > p->max_blocks) s.blocks = p->max_blocks;
    if (n_group == n) s.groups = s.rows;
    else if (s.groups >= s.rows) s.groups = s.rows - 1;
    return s;
}

Status decode_step_lay(DecodePass *p, const DecodeRow *row, int n, const int32_t *group_offset, const int32_t *group_shared, int n_group,
                       Err *err) {
    int tokens, most;
    const Status s = rows_extend(p, row, n, &tokens, &most, err);
    if (s) return s;
    REQUIRE(tokens == n && n <= p->max_seqs && !p->used);
    const StepShape shape = p->records ? shape_around(p, n, most, n_group) : (StepShape){n, most, n_group};
    lay(p, row, n, group_offset, group_shared, n_group, tokens, shape.rows, shape);
    return OK;
}

/* ---- running ----------------------------------------------------------------------------------------------------- */

static void run(DecodePass *p) {
    model_decode(p->model, p->acts, p->d_tokens, p->d_positions, p->d_slot, &p->pages, p->cache->layer_stride, p->rows);
}

void decode_pass_run(DecodePass *p) {
    decode_pass_upload(p);
    run(p);
}

static void run_step(DecodePass *p, void *logits) {
    run(p);
    model_logits(p->model, p->acts, logits, NULL, p->rows);
}

/* The recording of the step laid out, graph NULL if there is none yet. */
static StepRecording *recording_of(DecodePass *p, const void *logits) {
    const StepShape shape = {p->rows, p->pages.max_blocks, p->pages.n_group};
    const void *workspace = device_workspace(p->model->dev, NULL);
    StepRecording *oldest = p->recording;
    for (StepRecording *r = p->recording; r < p->recording + STEP_RECORDINGS; r++) {
        if (!memcmp(&r->shape, &shape, sizeof shape) && r->workspace == workspace && r->logits == logits) return r;
        if (r->last < oldest->last) oldest = r;
    }
    recording_free(p, oldest);
    *oldest = (StepRecording){.shape = shape, .workspace = workspace, .logits = logits};
    return oldest;
}

void decode_step_run(DecodePass *p, void *logits) {
    Device *dev = p->model->dev;
    decode_pass_upload(p);
    if (device_error(dev)) return;
    StepRecording *r = p->records ? recording_of(p, logits) : NULL;
    p->steps++;
    /* The first step of a shape runs directly: what kernels need is loaded then, not while recording. */
    if (r && r->steps++ && !r->graph) {
        if (!device_record(dev)) {
            run_step(p, logits);
            r->graph = device_record_end(dev);
            if (!r->graph) device_fail(dev, "decode_step_run", "the device did not record the step");
        } else {
            p->records = 0;
        }
    }
    if (r) r->last = p->steps;
    if (r && r->graph) {
        device_graph_launch(dev, r->graph);
        p->replayed++;
    } else {
        run_step(p, logits);
    }
}
