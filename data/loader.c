/* loader.c - see loader.h.  One block is packed at a time; filling a row then copies runs of a patient's arrays, which
 * for data larger than the caches means to hide memory's time behind the copying. */
#include "data/loader.h"
#include "data/loader_pack.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Later windows are fetched while one is copied, a piece of theirs for a piece of its: processors have some tens of
 * fetches under way, and a whole window at once would wait for memory. */
enum { FETCH_AHEAD = 6 /* windows */, PIECE = 64 /* elements */ };

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
    int logp[2];    /* whether oracle_logp of the batch may hold anything but NaN */
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
    for (size_t i = 0; i < N; i++) b->oracle_logp[i] = NAN;
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

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* Elements [first, first + n) of the tokens: read at slots from `at` on, predicted one slot earlier.  `simd`: no two of
 * the eight arrays overlap, which compilers would look at again for every piece. */
static void copy_piece(Batch *b, int at, const PatientView *p, int64_t first, int n, int position) {
    const int wide = p->wide;
    const uint16_t *narrow_id = (const uint16_t *)p->tokens + first;
    const uint32_t *wide_id = (const uint32_t *)p->tokens + first;
    const int32_t *when = p->minutes + first;
    int32_t *tokens = b->tokens + at, *minutes = b->minutes + at, *positions = b->positions + at;
    int32_t *lo = b->target_lo + at - 1, *hi = b->target_hi + at - 1;
    int64_t *index = b->target_index + at - 1;
#pragma omp simd
    for (int i = 0; i < n; i++) {
        int32_t id = wide ? (int32_t)wide_id[i] : narrow_id[i];
        tokens[i] = lo[i] = id;
        hi[i] = id + 1;
        index[i] = first + i;
        minutes[i] = when[i];
        positions[i] = position + i;
    }
}

/* The window that is fetched while another is copied: its elements [at, end). */
typedef struct {
    PatientView p;
    int64_t at, end;
} Soon;

static void fetch_piece(Soon *s) {
    if (s->at < s->end) patient_fetch(&s->p, s->at, PIECE);
    s->at += PIECE;
}

/* The same for any number of them, and what is left of the window to be fetched. */
static void copy_tokens(Batch *b, int at, const PatientView *p, int64_t first, int64_t n, int position, Soon *soon) {
    for (int64_t i = 0; i < n; i += PIECE) {
        fetch_piece(soon);
        copy_piece(b, at + (int)i, p, first + i, (int)smaller(PIECE, n - i), position + (int)i);
    }
    while (soon->at < soon->end) fetch_piece(soon);
}

static int32_t stream_minute(const PatientView *p, const Stream *s, int64_t at) {
    if (at < s->n) return p->minutes[at];
    return (int32_t)(p->minutes[s->n - 1] + (at - s->n + 1) * GAP_MINUTES[GAP_BINS]);
}

/* Element `at` of the stream as the target of a slot. */
static void fill_target(Batch *b, int slot, const PatientView *p, const Stream *s, int64_t at, int gap_lo) {
    int told = at < s->n, censored = at == s->n + s->extra;
    b->target_lo[slot] = told ? (int32_t)patient_token(p, at) : censored ? s->censored_lo : gap_lo + GAP_BINS;
    b->target_hi[slot] = told ? b->target_lo[slot] + 1 : gap_lo + GAP_TOKENS;
    b->target_index[slot] = told ? at : -1;
}

static void no_targets(Batch *b, int at, int n) {
    for (int i = at; i < at + n; i++) b->target_lo[i] = b->target_hi[i] = -1;
    for (int i = at; i < at + n; i++) b->target_index[i] = -1;
}

/* Slots [at, at + n): what the oracle says of the n_known elements from `first` on, NaN behind. */
static void fill_logp(Loader *ld, int at, int n, const PatientView *p, int64_t first, int64_t n_known) {
    float *to = ld->batch[ld->turn].oracle_logp + at;
    if (n_known) memcpy(to, p->oracle_logp + first, sizeof *to * (size_t)n_known);
    if (n_known) ld->logp[ld->turn] = 1;
    for (int64_t i = n_known; ld->logp[ld->turn] && i < n; i++) to[i] = NAN;
}

static Status fill_window(Loader *ld, int slot, const Window *w, Soon *soon, Err *err) {
    Batch *b = &ld->batch[ld->turn];
    PatientView p;
    Status status = dataset_patient(ld->d, ld->split, w->patient, &p, err);
    if (status) return status;
    const Stream *s = &ld->packing.stream[w->patient % BLOCK_PATIENTS];
    int n_prefix = ld->pack.n_prefix, at = slot + n_prefix, gap_lo = ld->d->vocabulary.gap_lo;
    int32_t start = w->first ? stream_minute(&p, s, w->first - 1) : 0;
    dataset_prefix(ld->d, &p, w->first, b->tokens + slot, n_prefix);
    for (int i = 0; i < n_prefix; i++) b->minutes[slot + i] = start;
    for (int i = 0; i < n_prefix; i++) b->positions[slot + i] = i;
    no_targets(b, slot, n_prefix - 1);
    /* The last element is predicted, not read. */
    int64_t told = w->first < s->n ? smaller(w->count, s->n - w->first) : 0, n = smaller(told, w->count - 1);
    copy_tokens(b, at, &p, w->first, n, n_prefix, soon);
    for (int64_t i = n; i < w->count - 1; i++) {
        fill_target(b, at - 1 + (int)i, &p, s, w->first + i, gap_lo);
        b->tokens[at + i] = gap_lo + GAP_BINS;
        b->minutes[at + i] = stream_minute(&p, s, w->first + i);
        b->positions[at + i] = n_prefix + (int)i;
    }
    fill_target(b, at + w->count - 2, &p, s, w->first + w->count - 1, gap_lo);
    fill_logp(ld, slot, n_prefix - 1, NULL, 0, 0);
    fill_logp(ld, at - 1, w->count, &p, w->first, p.oracle_logp ? told : 0);
    b->n_targets += w->count;
    b->seq_patient[b->n_seq] = w->patient;
    b->cu_seqlens[++b->n_seq] = slot + w->slots;
    return OK;
}

static void fill_rest(Loader *ld, int slot, int n) {
    if (!n) return;
    Batch *b = &ld->batch[ld->turn];
    memset(b->tokens + slot, 0, sizeof *b->tokens * (size_t)n);
    memset(b->minutes + slot, 0, sizeof *b->minutes * (size_t)n);
    for (int i = 0; i < n; i++) b->positions[slot + i] = i;
    no_targets(b, slot, n);
    fill_logp(ld, slot, n, NULL, 0, 0);
    b->seq_patient[b->n_seq] = -1;
    b->cu_seqlens[++b->n_seq] = slot + n;
}

/* Local row `row` of the batch from global row `from` of the packed block; from < 0: filler. */
static Status fill_row(Loader *ld, int row, int64_t from, Err *err) {
    int slot = row * ld->o.T, end = slot + ld->o.T;
    const Packing *p = &ld->packing;
    for (int64_t i = from < 0 ? 0 : p->row_offset[from]; i < (from < 0 ? 0 : p->row_offset[from + 1]); i++) {
        Soon soon = {.at = 0};
        if (i + FETCH_AHEAD < p->row_offset[p->n_rows]) { /* windows lie in the order of the rows */
            const Window *w = &p->window[i + FETCH_AHEAD];
            dataset_patient_unchecked(ld->d, ld->split, w->patient, &soon.p);
            soon.at = w->first;
            soon.end = smaller(w->first + w->count, soon.p.n);
        }
        Status status = fill_window(ld, slot, &p->window[i], &soon, err);
        if (status) return status;
        slot += p->window[i].slots;
    }
    fill_rest(ld, slot, end - slot);
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
    int bad = at->epoch < 0 || at->epoch > INT32_MAX || at->block < 0 || at->row < 0 || at->block > ld->n_blocks ||
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
