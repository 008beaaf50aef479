/* loader.c - see loader.h.  One block is packed at a time; filling a row then copies runs of a patient's arrays. */
#include "data/loader.h"
#include "data/loader_pack.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FETCH_AHEAD = 6 }; /* windows whose elements are fetched before they are copied */

struct Loader {
    Dataset *d;
    int split;
    LoaderOptions o;
    PackOptions pack;
    int64_t n_blocks;
    LoaderCursor at;
    int64_t packed_epoch, packed_block; /* what `packing` holds: epoch and position in it; -1 = nothing */
    Packing packing;
    int64_t order_epoch;
    int64_t *order; /* (n_blocks) of order_epoch; NULL: as they come */
    Batch batch[2]; /* the last two given out */
    int turn;       /* which one is being filled */
};

static int64_t block_count(const Dataset *d, int split) {
    return (d->n_patients[split] + BLOCK_PATIENTS - 1) / BLOCK_PATIENTS;
}

static void batch_open(Batch *b, int rows, int T) {
    size_t N = (size_t)rows * (size_t)T;
    *b = (Batch){.rows = rows, .T = T, .N = rows * T};
    b->tokens = xcalloc(N, sizeof *b->tokens);
    b->positions = xcalloc(N, sizeof *b->positions);
    b->target_lo = xcalloc(N, sizeof *b->target_lo);
    b->target_hi = xcalloc(N, sizeof *b->target_hi);
    b->cu_seqlens = xcalloc(N + 1, sizeof *b->cu_seqlens);
    b->seq_patient = xcalloc(N, sizeof *b->seq_patient);
    b->target_index = xcalloc(N, sizeof *b->target_index);
    b->oracle_logp = xcalloc(N, sizeof *b->oracle_logp);
    b->minutes = xcalloc(N, sizeof *b->minutes);
}

static void batch_close(Batch *b) {
    free(b->tokens);
    free(b->positions);
    free(b->target_lo);
    free(b->target_hi);
    free(b->cu_seqlens);
    free(b->seq_patient);
    free(b->target_index);
    free(b->oracle_logp);
    free(b->minutes);
}

Status loader_open(Loader **out, Dataset *d, int split, const LoaderOptions *o, Err *err) {
    *out = NULL;
    REQUIRE(split >= 0 && split < SPLIT_COUNT && o->world > 0 && o->rank >= 0 && o->rank < o->world);
    int n_prefix = 2 + d->vocabulary.n_static;
    if (o->T < n_prefix + 2)
        return err_set(err, ERR_USAGE,
                       "rows of %d slots are too short: the prefix of a window takes %d and it must hold 2 "
                       "tokens; raise --seq-len to %d or more",
                       o->T, n_prefix, n_prefix + 2);
    if (o->rows < 1 || (int64_t)o->rows * o->T > INT32_MAX / 8)
        return err_set(err, ERR_USAGE, "%d rows of %d slots a pass are too many: lower --micro-batch", o->rows, o->T);
    if (o->shuffle && !d->n_tokens[split])
        return err_set(err, ERR_USAGE, "the %s split of %s is empty", split_name(split), d->path);
    Loader *ld = xcalloc(1, sizeof *ld);
    ld->d = d;
    ld->split = split;
    ld->o = *o;
    ld->pack = (PackOptions){.T = o->T, .n_prefix = n_prefix, .shuffle = o->shuffle, .seed = o->seed};
    ld->n_blocks = block_count(d, split);
    ld->packed_epoch = ld->packed_block = ld->order_epoch = -1;
    for (int i = 0; i < 2; i++) batch_open(&ld->batch[i], o->rows, o->T);
    *out = ld;
    return OK;
}

void loader_close(Loader *ld) {
    if (!ld) return;
    packing_free(&ld->packing);
    for (int i = 0; i < 2; i++) batch_close(&ld->batch[i]);
    free(ld->order);
    free(ld);
}

/* ---- filling ----------------------------------------------------------------------------------------------------- */

/* Elements [first, end) of the tokens: ids to `ids` (inputs and targets are the same run, one slot apart). */
static void copy_ids(int32_t *ids, const PatientView *p, int64_t first, int64_t end) {
    int64_t n = end - first;
    if (p->wide) {
        const uint32_t *from = (const uint32_t *)p->tokens + first;
        for (int64_t i = 0; i < n; i++) ids[i] = (int32_t)from[i];
    } else {
        const uint16_t *from = (const uint16_t *)p->tokens + first;
        for (int64_t i = 0; i < n; i++) ids[i] = from[i];
    }
}

static void positions_from_0(int32_t *to, int n) {
    for (int i = 0; i < n; i++) to[i] = i;
}

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static int32_t stream_minute(const PatientView *p, const Stream *s, int64_t at) {
    if (at < s->n) return p->minutes[at];
    return (int32_t)(p->minutes[s->n - 1] + (at - s->n + 1) * GAP_MINUTES[GAP_BINS]);
}

/* Targets of the window, at the slots that predict them: `at` is the slot of the last prefix token. */
static void fill_targets(Batch *b, int at, const Window *w, const PatientView *p, const Stream *s, int gap_lo) {
    int64_t end = w->first + w->count, told = smaller(end, s->n), n = told > w->first ? told - w->first : 0;
    int32_t *lo = b->target_lo + at, *hi = b->target_hi + at;
    if (n) copy_ids(lo, p, w->first, told);
    for (int64_t i = 0; i < n; i++) hi[i] = lo[i] + 1;
    for (int64_t i = 0; i < n; i++) b->target_index[at + i] = w->first + i;
    if (p->oracle_logp && n) memcpy(b->oracle_logp + at, p->oracle_logp + w->first, sizeof(float) * (size_t)n);
    for (int64_t i = p->oracle_logp ? n : 0; i < w->count; i++) b->oracle_logp[at + i] = NAN;
    for (int64_t i = n; i < w->count; i++) {
        int censored = w->first + i == s->n + s->extra;
        lo[i] = censored ? s->censored_lo : gap_lo + GAP_BINS;
        hi[i] = gap_lo + GAP_TOKENS;
        b->target_index[at + i] = -1;
    }
    b->n_targets += w->count;
}

static void no_targets(Batch *b, int at, int n) {
    for (int i = 0; i < n; i++) {
        b->target_lo[at + i] = b->target_hi[at + i] = -1;
        b->target_index[at + i] = -1;
        b->oracle_logp[at + i] = NAN;
    }
}

static Status fill_window(Loader *ld, int slot, const Window *w, Err *err) {
    Batch *b = &ld->batch[ld->turn];
    const Vocabulary *v = &ld->d->vocabulary;
    PatientView p;
    Status status = dataset_patient(ld->d, ld->split, w->patient, &p, err);
    if (status) return status;
    Stream s = stream_of(v, &p);
    int n_prefix = ld->pack.n_prefix, at = slot + n_prefix;
    int32_t start = w->first ? stream_minute(&p, &s, w->first - 1) : 0;
    dataset_prefix(ld->d, &p, w->first, b->tokens + slot, n_prefix);
    for (int i = 0; i < n_prefix; i++) b->minutes[slot + i] = start;
    no_targets(b, slot, n_prefix - 1);
    fill_targets(b, at - 1, w, &p, &s, v->gap_lo);
    /* The last element is predicted, not read. */
    int64_t end = w->first + w->count - 1, told = smaller(end, s.n), n = told > w->first ? told - w->first : 0;
    if (n) {
        copy_ids(b->tokens + at, &p, w->first, told);
        memcpy(b->minutes + at, p.minutes + w->first, sizeof *b->minutes * (size_t)n);
    }
    for (int64_t i = w->first + n; i < end; i++) {
        b->tokens[at + i - w->first] = v->gap_lo + GAP_BINS;
        b->minutes[at + i - w->first] = stream_minute(&p, &s, i);
    }
    positions_from_0(b->positions + slot, w->slots);
    b->seq_patient[b->n_seq] = w->patient;
    b->cu_seqlens[++b->n_seq] = slot + w->slots;
    return OK;
}

static void fill_rest(Batch *b, int slot, int n) {
    if (!n) return;
    memset(b->tokens + slot, 0, sizeof *b->tokens * (size_t)n);
    memset(b->minutes + slot, 0, sizeof *b->minutes * (size_t)n);
    positions_from_0(b->positions + slot, n);
    no_targets(b, slot, n);
    b->seq_patient[b->n_seq] = -1;
    b->cu_seqlens[++b->n_seq] = slot + n;
}

/* Local row `row` of the batch from global row `from` of the packed block; from < 0: filler. */
static Status fill_row(Loader *ld, int row, int64_t from, Err *err) {
    int slot = row * ld->o.T, end = slot + ld->o.T;
    const Packing *p = &ld->packing;
    for (int64_t i = from < 0 ? 0 : p->row_offset[from]; i < (from < 0 ? 0 : p->row_offset[from + 1]); i++) {
        if (i + FETCH_AHEAD < p->row_offset[p->n_rows]) { /* windows lie in the order of the rows */
            const Window *soon = &p->window[i + FETCH_AHEAD];
            dataset_patient_fetch(ld->d, ld->split, soon->patient, soon->first, soon->count);
        }
        Status status = fill_window(ld, slot, &p->window[i], err);
        if (status) return status;
        slot += p->window[i].slots;
    }
    fill_rest(&ld->batch[ld->turn], slot, end - slot);
    return OK;
}

/* ---- the global sequence of rows
 * -------------------------------------------------------------------------------------- */

static void pack_at_cursor(Loader *ld) {
    LoaderCursor *at = &ld->at;
    if (at->epoch == ld->packed_epoch && at->block == ld->packed_block) return;
    if (ld->o.shuffle && at->epoch != ld->order_epoch) {
        free(ld->order);
        ld->order = permutation(ld->n_blocks, loader_key(ld->o.seed, at->epoch, DRAW_BLOCKS, 0));
        ld->order_epoch = at->epoch;
    }
    packing_free(&ld->packing);
    packing_build(&ld->packing, ld->d, ld->split, ld->order ? ld->order[at->block] : at->block, at->epoch, &ld->pack);
    ld->packed_epoch = at->epoch;
    ld->packed_block = at->block;
}

/* Moves the cursor to the next row that exists and packs its block; 0 when the split is used up (unshuffled). */
static int next_row(Loader *ld) {
    LoaderCursor *at = &ld->at;
    for (;;) {
        if (at->block >= ld->n_blocks) *at = (LoaderCursor){.epoch = at->epoch + 1};
        if (!ld->n_blocks || (!ld->o.shuffle && at->epoch > 0)) return 0;
        pack_at_cursor(ld);
        if (at->row < ld->packing.n_rows) return 1;
        at->block++;
        at->row = 0;
    }
}

Status loader_next(Loader *ld, Batch **out, Err *err) {
    LoaderCursor start = ld->at;
    Batch *b = &ld->batch[ld->turn = !ld->turn];
    b->n_seq = b->n_targets = 0;
    *out = NULL;
    int64_t n = (int64_t)ld->o.rows * ld->o.world, found = 0;
    for (int64_t i = 0; i < n; i++) {
        int there = next_row(ld);
        if (!there && !found) return OK;
        found += there;
        Status status = OK;
        if (i % ld->o.world == ld->o.rank) status = fill_row(ld, (int)(i / ld->o.world), there ? ld->at.row : -1, err);
        if (status) {
            ld->at = start;
            return status;
        }
        ld->at.row += there;
    }
    *out = b;
    return OK;
}

void loader_tell(const Loader *ld, LoaderCursor *at) { *at = ld->at; }

Status loader_seek(Loader *ld, const LoaderCursor *at, Err *err) {
    LoaderCursor before = ld->at;
    int bad = at->epoch < 0 || at->block < 0 || at->row < 0 || at->block > ld->n_blocks ||
              (at->block == ld->n_blocks && at->row > 0);
    if (!bad && at->block < ld->n_blocks && (ld->o.shuffle || at->epoch == 0)) {
        ld->at = *at;
        pack_at_cursor(ld);
        bad = at->row > ld->packing.n_rows;
    }
    ld->at = bad ? before : *at;
    return bad ? err_set(err, ERR_FORMAT,
                         "the %s split of %s has no row %lld in block %lld of an epoch: the position is of "
                         "another dataset or of another --seq-len",
                         split_name(ld->split), ld->d->path, (long long)at->row, (long long)at->block)
               : OK;
}

int64_t loader_targets(Dataset *d, int split, Err *err) {
    int64_t n = 0;
    for (int64_t row = 0; row < d->n_patients[split]; row++) {
        PatientView p;
        if (dataset_patient(d, split, row, &p, err)) return -1;
        Stream s = stream_of(&d->vocabulary, &p);
        n += stream_length(&s);
    }
    return n;
}
