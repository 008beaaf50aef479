/* test_loader.c - the loader's promises: every token a target once an epoch whatever the row length, windows that keep to
 * their rows, the same global rows on any number of ranks, exact seek, censored ends as specified. */
#include "data/loader_pack.h"
#include "data/loader.h"
#include "tests/make_dataset.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>
#include <cmocka.h>

static char root[512];
static Dataset data; /* 600 patients, three splits */

static int group_open(void **state) {
    (void)state;
    const char *base = getenv("TMPDIR");
    char dir[600];
    Err err = {0};
    snprintf(root, sizeof root, "%s/ehr-loader-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(root)) return 1;
    snprintf(dir, sizeof dir, "%s/data", root);
    make_dataset(dir, 600, 4);
    return dataset_open(&data, dir, &err);
}

static int group_close(void **state) {
    (void)state;
    dataset_close(&data);
    made_remove(root);
    return 0;
}

static Loader *open_loader(Dataset *d, int split, LoaderOptions o) {
    Loader *ld;
    Err err = {0};
    if (loader_open(&ld, d, split, &o, &err)) fail_msg("%s", err.msg);
    return ld;
}

static Batch *next(Loader *ld) {
    Batch *b;
    Err err = {0};
    if (loader_next(ld, &b, &err)) fail_msg("%s", err.msg);
    return b;
}

/* ---- what one batch must be ------------------------------------------------------------------------------------------ */

static void check_filler(const Batch *b, int from, int to) {
    for (int i = from; i < to; i++) {
        assert_int_equal(b->tokens[i], TOKEN_PAD);
        assert_int_equal(b->target_lo[i], -1);
        assert_int_equal(b->target_index[i], -1);
        assert_int_equal(b->positions[i], i - from);
        assert_true(isnan(b->oracle_logp[i]));
    }
}

/* The patient's stream, spelled out naively: ids [lo, hi), minute and index of every target. */
typedef struct {
    int32_t lo, hi, minute;
    int64_t index;
} Element;

static int64_t stream_elements(const Dataset *d, const PatientView *p, Element *out) {
    const Vocabulary *v = &d->vocabulary;
    int64_t n = 0, half_year = 180 * 1440, half_years = 0;
    for (; n < p->n; n++) {
        int32_t id = (int32_t)patient_token(p, n);
        out[n] = (Element){id, id + 1, p->minutes[n], n};
    }
    if (!n || out[n - 1].lo == v->death) return n;
    int64_t last = p->minutes[p->n - 1], left = p->observation_end - last;
    for (; left >= half_year; left -= half_year) {
        half_years++;
        out[n++] = (Element){v->gap_lo + GAP_TOKENS - 1, v->gap_lo + GAP_TOKENS, (int32_t)(last + half_years * half_year), -1};
    }
    if (left < 5) return n;
    int bin = 0;
    while (bin + 1 < GAP_TOKENS && GAP_MINUTES[bin + 1] <= left) bin++;
    out[n++] = (Element){v->gap_lo + bin, v->gap_lo + GAP_TOKENS, 0, -1};
    return n;
}

/* Compares a window with its patient's stream; returns how many targets it has. */
static int64_t check_window(Dataset *d, int split, const Batch *b, int seq) {
    PatientView p;
    Err err = {0};
    int from = b->cu_seqlens[seq], to = b->cu_seqlens[seq + 1], n_prefix = 2 + d->vocabulary.n_static;
    assert_int_equal(dataset_patient(d, split, b->seq_patient[seq], &p, &err), OK);
    Element *e = xcalloc((size_t)p.n + 20000, sizeof *e);
    int64_t n = stream_elements(d, &p, e), first = b->target_index[from + n_prefix - 1];
    assert_true(to - from >= n_prefix);
    if (first < 0) { /* begins among what was appended: count back from the end of the stream */
        first = n - (to - from - n_prefix + 1);
    }
    int32_t prefix[8];
    assert_int_equal(dataset_prefix(d, &p, first, prefix, 8), n_prefix);
    assert_memory_equal(prefix, b->tokens + from, sizeof *prefix * (size_t)n_prefix);
    for (int i = from; i < to; i++) {
        int64_t at = first + i - from - n_prefix + 1; /* stream index that slot i predicts */
        assert_int_equal(b->positions[i], i - from);
        if (i < from + n_prefix) assert_int_equal(b->minutes[i], first ? e[first - 1].minute : 0);
        if (i < from + n_prefix - 1) {
            assert_int_equal(b->target_lo[i], -1);
            continue;
        }
        assert_true(at < n);
        assert_int_equal(b->target_lo[i], e[at].lo);
        assert_int_equal(b->target_hi[i], e[at].hi);
        assert_int_equal(b->target_index[i], e[at].index);
        if (i >= from + n_prefix) {
            assert_int_equal(b->tokens[i], e[at - 1].lo);
            assert_int_equal(b->minutes[i], e[at - 1].minute);
        }
    }
    free(e);
    return to - from - n_prefix + 1;
}

static void check_batch(Dataset *d, int split, const Batch *b, int *windows) {
    int64_t n_targets = 0;
    assert_int_equal(b->cu_seqlens[0], 0);
    assert_int_equal(b->cu_seqlens[b->n_seq], b->N);
    for (int s = 0; s < b->n_seq; s++) {
        int from = b->cu_seqlens[s], to = b->cu_seqlens[s + 1];
        assert_true(from < to);
        assert_int_equal(from / b->T, (to - 1) / b->T); /* no window crosses a row */
        if (b->seq_patient[s] < 0) {
            check_filler(b, from, to);
        } else {
            n_targets += check_window(d, split, b, s);
            (*windows)++;
        }
    }
    int64_t counted = 0;
    for (int i = 0; i < b->N; i++) counted += b->target_lo[i] >= 0;
    assert_int_equal(counted, b->n_targets);
    assert_int_equal(n_targets, b->n_targets);
}

/* ---- every token once ------------------------------------------------------------------------------------------------- */

/* One epoch, row by row: every token of the split and every appended element is told exactly once. */
static void check_epoch(int split, int T, int shuffle, uint64_t seed) {
    int64_t P = data.n_patients[split], total = data.n_tokens[split], appended = 0, want_appended = 0, told = 0;
    uint8_t *count = xcalloc((size_t)total, 1);
    int64_t *base = xcalloc((size_t)P + 1, sizeof *base), *extra = xcalloc((size_t)P, sizeof *extra);
    Err err = {0};
    int windows = 0;
    for (int64_t i = 0; i < P; i++) {
        PatientView p;
        assert_int_equal(dataset_patient(&data, split, i, &p, &err), OK);
        base[i + 1] = base[i] + p.n;
        Element *e = xcalloc((size_t)p.n + 20000, sizeof *e);
        extra[i] = stream_elements(&data, &p, e) - p.n;
        want_appended += extra[i];
        free(e);
    }
    assert_int_equal(loader_targets(&data, split, &err), total + want_appended);
    Loader *ld = open_loader(&data, split, (LoaderOptions){.rows = 1, .T = T, .seed = seed, .shuffle = shuffle, .world = 1});
    while (told < total + want_appended) {
        Batch *b = next(ld);
        check_batch(&data, split, b, &windows);
        told += b->n_targets;
        for (int s = 0; s < b->n_seq; s++)
            for (int i = b->cu_seqlens[s]; i < b->cu_seqlens[s + 1]; i++) {
                if (b->target_lo[i] < 0) continue;
                int64_t patient = b->seq_patient[s], index = b->target_index[i];
                if (index >= 0) count[base[patient] + index]++;
                else extra[patient]--;
                appended += index < 0;
            }
    }
    LoaderCursor at;
    loader_tell(ld, &at);
    assert_int_equal(at.epoch, 0);
    if (!shuffle) assert_null(next(ld));
    assert_int_equal(appended, want_appended);
    for (int64_t i = 0; i < total; i++) assert_int_equal(count[i], 1);
    for (int64_t i = 0; i < P; i++) assert_int_equal(extra[i], 0);
    assert_true(windows >= P);
    loader_close(ld);
    free(count);
    free(base);
    free(extra);
}

static void test_every_token_once(void **state) {
    (void)state;
    static const int lengths[] = {5, 6, 17, 64, 256, 1000, 4096};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        check_epoch(SPLIT_TUNING, lengths[i], 0, 1);
        check_epoch(SPLIT_TRAIN, lengths[i], 1, 7 + i);
    }
    check_epoch(SPLIT_HELD_OUT, 33, 1, 3);
}

/* ---- order: seeds, epochs, ranks, seek --------------------------------------------------------------------------------- */

static uint64_t row_hash(const Batch *b, int row) {
    uint64_t h = 1;
    for (int i = row * b->T; i < (row + 1) * b->T; i++) {
        h = philox_mix(h, (uint64_t)(uint32_t)b->tokens[i]);
        h = philox_mix(h, (uint64_t)(uint32_t)b->target_lo[i] << 32 | (uint32_t)b->target_hi[i]);
        h = philox_mix(h, (uint64_t)(uint32_t)b->minutes[i] << 32 | (uint32_t)b->positions[i]);
    }
    return h;
}

enum { ROWS = 240 };

static void hash_rows(uint64_t seed, int rows, int rank, int world, int shuffle, uint64_t *out) {
    Loader *ld = open_loader(&data, SPLIT_TRAIN, (LoaderOptions){.rows = rows, .T = 128, .seed = seed, .shuffle = shuffle,
                                                                 .rank = rank, .world = world});
    for (int call = 0; call * rows * world < ROWS; call++) {
        Batch *b = next(ld);
        if (!b) break;
        for (int r = 0; r < rows; r++) {
            int row = (call * rows + r) * world + rank;
            if (row < ROWS) out[row] = row_hash(b, r);
        }
    }
    loader_close(ld);
}

static void test_ranks_agree(void **state) {
    (void)state;
    uint64_t one[ROWS] = {0}, many[ROWS], again[ROWS], other[ROWS];
    hash_rows(11, 1, 0, 1, 1, one);
    hash_rows(11, 1, 0, 1, 1, again);
    assert_memory_equal(one, again, sizeof one);
    hash_rows(12, 1, 0, 1, 1, other);
    int differ = 0;
    for (int i = 0; i < ROWS; i++) differ += one[i] != other[i];
    assert_true(differ > ROWS / 2);
    for (int world = 1; world <= 4; world++)
        for (int rows = 1; rows <= 5; rows += 2) {
            memset(many, 0, sizeof many);
            for (int rank = 0; rank < world; rank++) hash_rows(11, rows, rank, world, 1, many);
            assert_memory_equal(one, many, sizeof one);
        }
}

static void test_end_of_split(void **state) {
    (void)state;
    Loader *one = open_loader(&data, SPLIT_TUNING, (LoaderOptions){.rows = 1, .T = 200, .world = 1});
    int rows = 0, windows = 0;
    for (Batch *b; (b = next(one));) {
        check_batch(&data, SPLIT_TUNING, b, &windows);
        rows++;
    }
    assert_null(next(one)); /* and stays there */
    assert_true(rows > 3);
    for (int world = 1; world <= 4; world++) {
        int64_t targets = 0;
        Err err = {0};
        for (int rank = 0; rank < world; rank++) {
            Loader *ld = open_loader(&data, SPLIT_TUNING, (LoaderOptions){.rows = 2, .T = 200, .rank = rank, .world = world});
            int calls = 0;
            for (Batch *b; (b = next(ld)); calls++) {
                check_batch(&data, SPLIT_TUNING, b, &windows);
                targets += b->n_targets;
            }
            assert_int_equal(calls, (rows + 2 * world - 1) / (2 * world));
            loader_close(ld);
        }
        assert_int_equal(targets, loader_targets(&data, SPLIT_TUNING, &err));
    }
    Err err = {0};
    assert_int_equal(loader_seek(one, &(LoaderCursor){0}, &err), OK);
    int again = 0;
    while (next(one)) again++;
    assert_int_equal(again, rows);
    loader_close(one);
}

static void test_seek(void **state) {
    (void)state;
    enum { STEPS = 60 };
    LoaderCursor at[STEPS];
    uint64_t hash[STEPS];
    LoaderOptions o = {.rows = 3, .T = 150, .seed = 5, .shuffle = 1, .world = 1};
    Loader *ld = open_loader(&data, SPLIT_TUNING, o);
    Err err = {0};
    int epochs = 0;
    for (int i = 0; i < STEPS; i++) {
        loader_tell(ld, &at[i]);
        Batch *b = next(ld);
        hash[i] = philox_mix(row_hash(b, 0), philox_mix(row_hash(b, 1), row_hash(b, 2)));
        epochs = (int)at[i].epoch;
    }
    assert_true(epochs >= 2); /* the walk went over the end of the split */
    loader_close(ld);
    for (int i = STEPS - 1; i >= 0; i -= 7) {
        ld = open_loader(&data, SPLIT_TUNING, o);
        assert_int_equal(loader_seek(ld, &at[i], &err), OK);
        for (int k = i; k < STEPS && k < i + 3; k++) {
            Batch *b = next(ld);
            assert_true(hash[k] == philox_mix(row_hash(b, 0), philox_mix(row_hash(b, 1), row_hash(b, 2))));
        }
        loader_close(ld);
    }
    ld = open_loader(&data, SPLIT_TUNING, o);
    static const LoaderCursor wrong[] = {{-1, 0, 0}, {INT64_MAX, 0, 0}, {0, -1, 0}, {0, 0, -1}, {0, 2, 0}, {0, 0, 1 << 20}, {0, 1, 1}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(loader_seek(ld, &wrong[i], &err), ERR_FORMAT);
        loader_tell(ld, &at[0]);
        assert_int_equal(at[0].row, 0);
    }
    loader_close(ld);
}

static void test_epochs_differ(void **state) {
    (void)state;
    int64_t order[2][64];
    for (int epoch = 0; epoch < 2; epoch++) {
        Loader *ld = open_loader(&data, SPLIT_TRAIN, (LoaderOptions){.rows = 4, .T = 512, .seed = 9, .shuffle = 1, .world = 1});
        Err err = {0};
        assert_int_equal(loader_seek(ld, &(LoaderCursor){.epoch = epoch}, &err), OK);
        Batch *b = next(ld);
        for (int i = 0; i < 64; i++) order[epoch][i] = b->seq_patient[i % b->n_seq];
        loader_close(ld);
    }
    assert_memory_not_equal(order[0], order[1], sizeof order[0]);
}

/* Each order of three is as likely as another. */
static void test_permutations(void **state) {
    (void)state;
    enum { N = 6000 };
    int count[27] = {0};
    for (int k = 0; k < N; k++) {
        int64_t *p = permutation(3, philox_mix(1, (uint64_t)k));
        count[p[0] * 9 + p[1] * 3 + p[2]]++;
        free(p);
    }
    int orders = 0;
    for (int i = 0; i < 27; i++) {
        if (!count[i]) continue;
        orders++;
        if (abs(count[i] - N / 6) > 5 * sqrt(N / 6.0)) fail_msg("order %d came %d times", i, count[i]);
    }
    assert_int_equal(orders, 6);
}

/* Where a long record is cut first is drawn anew for each patient and in each epoch, the whole room included. */
static void test_first_cuts(void **state) {
    (void)state;
    enum { T = 8, PREFIX = 3, ROOM = T - PREFIX + 1, EPOCHS = 40 };
    const PackOptions o = {.T = T, .n_prefix = PREFIX, .shuffle = 1, .seed = 3};
    const int64_t P = data.n_patients[SPLIT_TUNING];
    int *cut = xcalloc((size_t)P * EPOCHS, sizeof *cut), count[ROOM + 1] = {0}, n = 0;
    for (int epoch = 0; epoch < EPOCHS; epoch++) {
        Packing p = {0};
        packing_build(&p, &data, SPLIT_TUNING, 0, epoch, &o);
        for (int64_t i = 0; i < p.row_offset[p.n_rows]; i++)
            if (!p.window[i].first && stream_length(&p.stream[p.window[i].patient]) > 2 * ROOM) cut[p.window[i].patient * EPOCHS + epoch] = p.window[i].count;
        packing_free(&p);
    }
    for (int64_t i = 0; i < P; i++) {
        const int *of = cut + i * EPOCHS;
        int same = 0;
        if (!of[0]) continue;
        for (int epoch = 0; epoch < EPOCHS; epoch++) {
            assert_in_range(of[epoch], 1, ROOM);
            count[of[epoch]]++;
            same += of[epoch] == of[0];
            n++;
        }
        assert_true(same < EPOCHS / 2);
    }
    assert_true(n > 100);
    for (int k = 1; k <= ROOM; k++)
        if (fabs(count[k] - (double)n / ROOM) > 5 * sqrt((double)n / ROOM)) fail_msg("of %d cuts %d are at %d", n, count[k], k);
    int alike = 0, pairs = 0; /* two patients of one epoch */
    for (int64_t i = 1, last = cut[0] ? 0 : -1; i < P; i++) {
        if (!cut[i * EPOCHS]) continue;
        if (last >= 0) alike += cut[i * EPOCHS] == cut[last * EPOCHS], pairs++;
        last = i;
    }
    assert_true(pairs > 5 && alike < pairs / 2);
    free(cut);
}

/* A run may stop where a block has no more rows. */
static void test_seek_to_the_end_of_a_block(void **state) {
    (void)state;
    LoaderOptions o = {.rows = 1, .T = 150, .seed = 5, .shuffle = 1, .world = 1};
    Loader *ld = open_loader(&data, SPLIT_TUNING, o);
    Err err = {0};
    LoaderCursor at = {0, 0, 0};
    int64_t rows = 0;
    uint64_t after = 0;
    for (;; rows++) {
        after = row_hash(next(ld), 0);
        loader_tell(ld, &at);
        if (at.epoch || at.block) break;
    }
    loader_close(ld);
    ld = open_loader(&data, SPLIT_TUNING, o);
    assert_int_equal(loader_seek(ld, &(LoaderCursor){0, 0, rows + 1}, &err), ERR_FORMAT);
    assert_int_equal(loader_seek(ld, &(LoaderCursor){0, 0, rows}, &err), OK);
    assert_true(row_hash(next(ld), 0) == after); /* the first row of what follows */
    loader_close(ld);
}

/* ---- ends of records, by hand ------------------------------------------------------------------------------------------ */

static void open_hand_made(Dataset *d, MadePatient *p, int n, int with_oracle) {
    char dir[600];
    Err err = {0};
    MadeSplit split[SPLIT_COUNT] = {{p, n}};
    snprintf(dir, sizeof dir, "%s/hand", root);
    made_write(dir, split, with_oracle, with_oracle ? "hand-made" : NULL);
    if (dataset_open(d, dir, &err)) fail_msg("%s", err.msg);
    for (int i = 0; i < n; i++) made_patient_free(&p[i]);
}

/* One visit, then `elapsed` minutes of observation. */
static void expect_end(int64_t elapsed, int dead, int half_years, int lo) {
    MadePatient p = {.key = 1, .statics = {MADE_SEX_F, 40}, .group = {1}, .observation_end = (int32_t)(10 + elapsed)};
    Dataset d;
    made_push(&p, MADE_VISIT, 0);
    made_push(&p, dead ? MADE_DEATH : MADE_VISIT_END, 10);
    open_hand_made(&d, &p, 1, 0);
    Loader *ld = open_loader(&d, SPLIT_TRAIN, (LoaderOptions){.rows = 1, .T = 64, .world = 1});
    Batch *b = next(ld);
    assert_int_equal(b->n_targets, 2 + half_years + (lo >= 0));
    int slot = 2; /* the last prefix slot */
    assert_int_equal(b->target_lo[slot], MADE_VISIT);
    assert_int_equal(b->target_index[slot], 0);
    assert_int_equal(b->tokens[++slot], MADE_VISIT);
    assert_int_equal(b->target_lo[slot], dead ? MADE_DEATH : MADE_VISIT_END);
    assert_int_equal(b->target_index[slot], 1);
    for (int k = 0; k < half_years; k++) {
        assert_int_equal(b->tokens[++slot], k ? MADE_GAP + 18 : MADE_VISIT_END);
        assert_int_equal(b->minutes[slot], 10 + k * 259200);
        assert_int_equal(b->target_lo[slot], MADE_GAP + 18);
        assert_int_equal(b->target_hi[slot], MADE_GAP + 19);
        assert_int_equal(b->target_index[slot], -1);
    }
    if (lo >= 0) {
        assert_int_equal(b->tokens[++slot], half_years ? MADE_GAP + 18 : MADE_VISIT_END);
        assert_int_equal(b->target_lo[slot], lo);
        assert_int_equal(b->target_hi[slot], MADE_GAP + 19);
        assert_int_equal(b->target_index[slot], -1);
    }
    assert_int_equal(b->cu_seqlens[1], slot + 1);
    check_filler(b, slot + 1, b->N);
    loader_close(ld);
    dataset_close(&d);
}

static void test_censoring(void **state) {
    (void)state;
    expect_end(0, 0, 0, -1);
    expect_end(4, 0, 0, -1);
    expect_end(5, 0, 0, MADE_GAP);
    expect_end(14, 0, 0, MADE_GAP);
    expect_end(15, 0, 0, MADE_GAP + 1);
    expect_end(1439, 0, 0, MADE_GAP + 9);
    expect_end(1440, 0, 0, MADE_GAP + 10);
    expect_end(259199, 0, 0, MADE_GAP + 17);
    expect_end(259200, 0, 1, -1);
    expect_end(259204, 0, 1, -1);
    expect_end(259205, 0, 1, MADE_GAP);
    expect_end(3 * 259200 + 10080, 0, 3, MADE_GAP + 13);
    expect_end(-10, 0, 0, -1); /* an observation that ends too early is validate's business, not a crash */
    expect_end(259205, 1, 0, -1); /* nothing is censored after death */
}

/* Appended half-years are windowed like everything else, with prefixes that go on ageing. */
static void test_long_tail(void **state) {
    (void)state;
    MadePatient p = {.key = 1, .statics = {MADE_SEX_F, 40}, .group = {1}, .observation_end = 40 * 525960};
    Dataset d;
    int windows = 0, last_age = 0;
    made_push(&p, MADE_VISIT, 0);
    open_hand_made(&d, &p, 1, 0);
    for (int shuffle = 0; shuffle < 2; shuffle++) {
        Loader *ld = open_loader(&d, SPLIT_TRAIN, (LoaderOptions){.rows = 1, .T = 9, .shuffle = shuffle, .world = 1});
        int64_t targets = 0;
        Err err = {0};
        int64_t all = loader_targets(&d, SPLIT_TRAIN, &err);
        assert_int_equal(all, 1 + 40 * 525960 / 259200 + 1);
        while (targets < all) {
            Batch *b = next(ld);
            targets += b->n_targets;
            windows++;
            if (b->tokens[2] > last_age) last_age = b->tokens[2];
            assert_int_equal(b->tokens[0], b->target_index[2] == 0 ? TOKEN_START : TOKEN_CONTINUES);
        }
        assert_int_equal(targets, all);
        loader_close(ld);
    }
    assert_true(windows >= 2 * 12);
    assert_int_equal(last_age, MADE_AGE + (75 - 15) / 5); /* the last window begins near 80 */
    dataset_close(&d);
}

static void test_oracle_column(void **state) {
    (void)state;
    MadePatient p = {.key = 1, .statics = {MADE_SEX_F, 40}, .group = {1}, .observation_end = 400000};
    Dataset d;
    for (int i = 0; i < 20; i++) made_push(&p, MADE_VISIT, i);
    p.oracle_logp = xcalloc(20, sizeof(float));
    for (int i = 0; i < 20; i++) p.oracle_logp[i] = i < 15 ? -(float)i : NAN; /* index after the 15th token */
    open_hand_made(&d, &p, 1, 1);
    Loader *ld = open_loader(&d, SPLIT_TRAIN, (LoaderOptions){.rows = 1, .T = 64, .world = 1});
    Batch *b = next(ld);
    assert_int_equal(b->n_targets, 22);
    for (int i = 0; i < b->N; i++) {
        int64_t at = b->target_index[i];
        if (at >= 0 && at < 15) assert_true(b->oracle_logp[i] == -(float)at);
        else assert_true(isnan(b->oracle_logp[i]));
    }
    loader_close(ld);
    dataset_close(&d);
}

/* The same patients in a shard of wide ids give the same rows. */
static void test_wide_ids(void **state) {
    (void)state;
    enum { P = 120, CALLS = 40 };
    MadePatient p[P];
    MadeSplit split[SPLIT_COUNT] = {{p, P}};
    uint64_t hash[2][CALLS];
    char dir[600], path[700];
    Err err = {0};
    for (int i = 0; i < P; i++) made_patient(&p[i], 3, i);
    snprintf(dir, sizeof dir, "%s/wide", root);
    snprintf(path, sizeof path, "%s/train-00000.h5", dir);
    made_write(dir, split, 0, NULL);
    for (int wide = 0; wide < 2; wide++) {
        Dataset d;
        PatientView v;
        assert_int_equal(dataset_open(&d, dir, &err), OK);
        assert_int_equal(dataset_patient(&d, SPLIT_TRAIN, 0, &v, &err), OK);
        assert_int_equal(v.wide, wide);
        Loader *ld = open_loader(&d, SPLIT_TRAIN, (LoaderOptions){.rows = 1, .T = 200, .seed = 8, .shuffle = 1, .world = 1});
        for (int call = 0; call < CALLS; call++) hash[wide][call] = row_hash(next(ld), 0);
        ShardWriter *w;
        assert_int_equal(shard_writer_open(&w, path, 1, 1, 1, 0, &err), OK);
        for (int i = 0; i < P; i++)
            assert_int_equal(shard_writer_patient(w, p[i].key, p[i].tokens, p[i].minutes, p[i].n, p[i].statics, p[i].group,
                                                  p[i].observation_end, NULL, &err), OK);
        assert_int_equal(shard_writer_close(w, "{}", d.vocabulary.sha256, &err), OK);
        loader_close(ld);
        dataset_close(&d);
    }
    assert_memory_equal(hash[0], hash[1], sizeof hash[0]);
    for (int i = 0; i < P; i++) made_patient_free(&p[i]);
}

/* Batches are used again: what the oracle said of one row is gone from slots of the next that it knows nothing of. */
static void test_oracle_of_later_batches(void **state) {
    (void)state;
    enum { P = 7 };
    MadePatient p[P];
    Dataset d;
    Err err = {0};
    for (int i = 0; i < P; i++) {
        p[i] = (MadePatient){.key = (uint64_t)i, .statics = {MADE_SEX_F, 40}, .group = {1}, .observation_end = 300000 * (i % 4)};
        for (int t = 0; t < 3 + 5 * i; t++) made_push(&p[i], MADE_VISIT, t);
        p[i].oracle_logp = xcalloc((size_t)p[i].n, sizeof(float));
        for (int t = 0; t < p[i].n; t++) p[i].oracle_logp[t] = t % 3 ? -(float)(100 * i + t) : NAN;
    }
    open_hand_made(&d, p, P, 1);
    Loader *ld = open_loader(&d, SPLIT_TRAIN, (LoaderOptions){.rows = 2, .T = 14, .seed = 2, .shuffle = 1, .world = 1});
    int known = 0, unknown = 0;
    for (int call = 0; call < 40; call++) {
        Batch *b = next(ld);
        for (int s = 0; s < b->n_seq; s++)
            for (int i = b->cu_seqlens[s]; i < b->cu_seqlens[s + 1]; i++) {
                PatientView v;
                float want = NAN;
                if (b->target_index[i] >= 0) {
                    assert_int_equal(dataset_patient(&d, SPLIT_TRAIN, b->seq_patient[s], &v, &err), OK);
                    want = v.oracle_logp[b->target_index[i]];
                }
                if (isnan(want)) assert_true(isnan(b->oracle_logp[i]));
                else assert_true(b->oracle_logp[i] == want);
                known += !isnan(want);
                unknown += isnan(want);
            }
    }
    assert_true(known > 100 && unknown > 100);
    loader_close(ld);
    dataset_close(&d);
}

/* ---- sizes ------------------------------------------------------------------------------------------------------------- */

static void test_usage(void **state) {
    (void)state;
    Loader *ld;
    Err err = {0};
    LoaderOptions o = {.rows = 1, .T = 4, .world = 1};
    assert_int_equal(loader_open(&ld, &data, SPLIT_TRAIN, &o, &err), ERR_USAGE);
    assert_non_null(strstr(err.msg, "--seq-len to 5"));
    o = (LoaderOptions){.rows = 1 << 20, .T = 1 << 20, .world = 1};
    assert_int_equal(loader_open(&ld, &data, SPLIT_TRAIN, &o, &err), ERR_USAGE);
    loader_close(NULL);
}

static void test_empty_split(void **state) {
    (void)state;
    MadePatient p[2] = {{.key = 1, .statics = {MADE_SEX_F, 40}}, {.key = 2, .statics = {MADE_SEX_F, 40}, .observation_end = 9999}};
    Dataset d;
    Loader *ld;
    Err err = {0};
    open_hand_made(&d, p, 2, 0); /* two patients without a token */
    LoaderOptions o = {.rows = 1, .T = 64, .shuffle = 1, .world = 1};
    assert_int_equal(loader_open(&ld, &d, SPLIT_TRAIN, &o, &err), ERR_USAGE);
    assert_int_equal(loader_open(&ld, &d, SPLIT_TUNING, &o, &err), ERR_USAGE);
    o.shuffle = 0;
    for (int split = 0; split < 2; split++) {
        assert_int_equal(loader_open(&ld, &d, split, &o, &err), OK);
        assert_null(next(ld));
        loader_close(ld);
    }
    dataset_close(&d);
}

/* More patients than a block holds, one of them very long; how well rows are filled. */
static void test_blocks(void **state) {
    (void)state;
    enum { P = 9000 };
    MadePatient *p = xcalloc(P, sizeof *p);
    Dataset d;
    Err err = {0};
    for (int i = 0; i < P; i++) made_patient(&p[i], 21, i);
    for (int i = 0; i < 200000; i++) made_push(&p[17], MADE_VISIT, p[17].minutes[p[17].n - 1]);
    open_hand_made(&d, p, P, 0);
    free(p);
    Loader *ld = open_loader(&d, SPLIT_TRAIN, (LoaderOptions){.rows = 8, .T = 512, .seed = 3, .shuffle = 1, .world = 1});
    int64_t targets = 0, slots = 0, filled = 0, all = loader_targets(&d, SPLIT_TRAIN, &err), blocks = 0;
    LoaderCursor at = {0};
    while (targets < all && at.epoch == 0) {
        Batch *b = next(ld);
        targets += b->n_targets;
        slots += b->N;
        for (int s = 0; s < b->n_seq; s++) filled += b->seq_patient[s] < 0 ? 0 : b->cu_seqlens[s + 1] - b->cu_seqlens[s];
        loader_tell(ld, &at);
        blocks = at.block > blocks ? at.block : blocks;
    }
    assert_true(targets >= all); /* the last call may have begun the next epoch */
    assert_int_equal(blocks, 2);
    if (filled < slots * 0.97) fail_msg("rows are only %.1f%% full", 100.0 * (double)filled / (double)slots);
    loader_close(ld);
    dataset_close(&d);
}

/* A damaged block is refused when its row comes, and the loader stays where it was. */
static void test_damage(void **state) {
    (void)state;
    char dir[600], path[700], *whole;
    size_t size;
    Err err = {0};
    Dataset d;
    Batch *b;
    snprintf(dir, sizeof dir, "%s/damaged", root);
    make_dataset(dir, 100, 2);
    snprintf(path, sizeof path, "%s/train-00000.h5", dir);
    assert_int_equal(file_read(path, 1 << 26, &whole, &size, &err), OK);
    /* Find the tokens of the first patient and change one, leaving HDF5's own structure alone. */
    MadePatient p;
    made_patient(&p, 2, 0);
    uint16_t ids[4] = {(uint16_t)p.tokens[0], (uint16_t)p.tokens[1], (uint16_t)p.tokens[2], (uint16_t)p.tokens[3]};
    char *at = memmem(whole, size, ids, sizeof ids);
    assert_non_null(at);
    *at ^= 1;
    assert_int_equal(file_write(path, whole, size, &err), OK);
    assert_int_equal(dataset_open(&d, dir, &err), OK);
    Loader *ld = open_loader(&d, SPLIT_TRAIN, (LoaderOptions){.rows = 4, .T = 64, .world = 1});
    LoaderCursor cursor;
    assert_int_equal(loader_next(ld, &b, &err), ERR_FORMAT);
    assert_non_null(strstr(err.msg, "checksum"));
    loader_tell(ld, &cursor);
    assert_int_equal(cursor.row, 0);
    loader_close(ld);
    dataset_close(&d);
    made_patient_free(&p);
    free(whole);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_token_once), cmocka_unit_test(test_ranks_agree), cmocka_unit_test(test_end_of_split),
        cmocka_unit_test(test_seek),             cmocka_unit_test(test_permutations),
        cmocka_unit_test(test_first_cuts),
        cmocka_unit_test(test_seek_to_the_end_of_a_block),
        cmocka_unit_test(test_epochs_differ), cmocka_unit_test(test_censoring),
        cmocka_unit_test(test_long_tail),        cmocka_unit_test(test_oracle_column), cmocka_unit_test(test_usage),
        cmocka_unit_test(test_empty_split),      cmocka_unit_test(test_blocks),        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_oracle_of_later_batches), cmocka_unit_test(test_wide_ids),
    };
    return cmocka_run_group_tests(tests, group_open, group_close);
}
