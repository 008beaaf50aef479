/* test_dataset.c - shards and datasets: round trips, damage anywhere in a shard, wrong kinds of files. */
#include "data/dataset.h"
#include "data/hash.h"
#include "data/table.h"
#include "data/validate.h"
#include "model/safetensors.h"
#include "tests/make_dataset.h"
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cmocka.h>

/* Stands before the C library's. */
static int synced;
int fsync(int fd) {
    synced++;
    return (int)syscall(SYS_fsync, fd);
}

/* HDF5 1.10 leaks a little of its own when it meets damaged metadata; what our code leaks is still reported. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) { return "leak:libhdf5"; }

static char root[512];

static int folder_open(void **state) {
    (void)state;
    const char *base = getenv("TMPDIR");
    snprintf(root, sizeof root, "%s/ehr-dataset-XXXXXX", base ? base : "/tmp");
    return mkdtemp(root) == NULL;
}

static int folder_remove(void **state) {
    (void)state;
    made_remove(root);
    return 0;
}

static void in_root(char *out, size_t size, const char *name) { snprintf(out, size, "%s/%s", root, name); }

static void assert_mentions(const Err *err, const char *text) {
    if (!strstr(err->msg, text)) fail_msg("the message '%s' does not mention '%s'", err->msg, text);
}

/* ---- hashes --------------------------------------------------------------------------------------------------------- */

static void test_crc32c(void **state) {
    (void)state;
    assert_int_equal(crc32c(0, "123456789", 9), 0xE3069283u); /* the check value of RFC 3720 */
    char zeros[32] = {0};
    assert_int_equal(crc32c(0, zeros, 32), 0x8A9136AAu);
    assert_int_equal(crc32c(crc32c(0, "1234", 4), "56789", 5), 0xE3069283u);
    assert_int_equal(crc32c(0, "", 0), 0);
    uint8_t bytes[300];
    for (int i = 0; i < 300; i++) bytes[i] = (uint8_t)(philox4x32(3, (uint64_t)i, 0).v[0]);
    for (int n = 0; n < 290; n++) /* every length and alignment the fast path treats differently */
        assert_int_equal(crc32c((uint32_t)n, bytes + n % 9, (size_t)n), crc32c_portable((uint32_t)n, bytes + n % 9, (size_t)n));
}

static void test_sha256(void **state) {
    (void)state;
    char hex[65], path[600];
    Err err = {0};
    const char *abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    bytes_sha256("abc", 3, hex);
    assert_string_equal(hex, abc);
    in_root(path, sizeof path, "abc");
    assert_int_equal(file_write(path, "abc", 3, &err), OK);
    assert_int_equal(file_sha256(path, hex, &err), OK);
    assert_string_equal(hex, abc);
    assert_int_equal(file_sha256("/no/such/file", hex, &err), ERR_IO);
}

/* ---- round trips ---------------------------------------------------------------------------------------------------- */

static void assert_patient(const PatientView *v, const MadePatient *p) {
    assert_true(v->key == p->key);
    assert_int_equal(v->n, p->n);
    assert_int_equal(v->observation_end, p->observation_end);
    assert_int_equal(v->age_years, p->statics[1]);
    assert_int_equal(v->statics[0], p->statics[0]);
    assert_int_equal(v->group[0], p->group[0]);
    for (int64_t i = 0; i < p->n; i++) assert_int_equal(patient_token(v, i), p->tokens[i]);
    if (p->n) assert_memory_equal(v->minutes, p->minutes, 4 * (size_t)p->n);
}

static void test_round_trip(void **state) {
    (void)state;
    char dir[600];
    Err err = {0};
    Dataset d;
    in_root(dir, sizeof dir, "round");
    make_dataset(dir, 200, 1);
    assert_int_equal(dataset_open(&d, dir, &err), OK);
    assert_int_equal(d.n_patients[SPLIT_TRAIN], 160);
    assert_int_equal(d.n_patients[SPLIT_TUNING], 20);
    assert_int_equal(d.n_patients[SPLIT_HELD_OUT], 20);
    assert_int_equal(d.n_groups, 1);
    assert_string_equal(d.group_name[0], "SEX");
    assert_string_equal(dataset_group_label(&d, 0, 2), "M");
    assert_string_equal(dataset_group_label(&d, 0, 3), "");
    assert_string_equal(dataset_group_label(&d, 1, 0), "");
    assert_string_equal(d.deidentification, "synthetic");
    assert_false(d.floor_valid);
    int64_t row[SPLIT_COUNT] = {0}, tokens[SPLIT_COUNT] = {0};
    for (int i = 0; i < 200; i++) {
        int s = i % 10 == 8 ? SPLIT_TUNING : i % 10 == 9 ? SPLIT_HELD_OUT : SPLIT_TRAIN, found_split;
        int64_t found_row;
        MadePatient p;
        PatientView v;
        made_patient(&p, 1, i);
        assert_int_equal(dataset_patient(&d, s, row[s], &v, &err), OK);
        assert_patient(&v, &p);
        assert_null(v.oracle_logp);
        assert_int_equal(v.row, row[s]);
        assert_int_equal(dataset_find(&d, p.key, &found_split, &found_row, &err), OK);
        assert_int_equal(found_split, s);
        assert_int_equal(found_row, row[s]);
        tokens[s] += p.n;
        row[s]++;
        made_patient_free(&p);
    }
    for (int s = 0; s < SPLIT_COUNT; s++) assert_int_equal(d.n_tokens[s], tokens[s]);
    int split;
    assert_int_equal(dataset_find(&d, 12345, &split, &row[0], &err), ERR_USAGE);
    PatientView v;
    assert_int_equal(dataset_patient(&d, SPLIT_TUNING, 20, &v, &err), ERR_USAGE);
    assert_int_equal(dataset_patient(&d, SPLIT_TUNING, -1, &v, &err), ERR_USAGE);
    dataset_close(&d);
    made_remove(dir);
}

static void test_same_bytes(void **state) {
    (void)state;
    char dir[600], other[600], path[700], a[65], b[65];
    Err err = {0};
    in_root(dir, sizeof dir, "same-a");
    in_root(other, sizeof other, "same-b");
    make_dataset(dir, 30, 5);
    sleep(1); /* a file with times in it would differ now */
    make_dataset(other, 30, 5);
    snprintf(path, sizeof path, "%s/train-00000.h5", dir);
    assert_int_equal(file_sha256(path, a, &err), OK);
    snprintf(path, sizeof path, "%s/train-00000.h5", other);
    assert_int_equal(file_sha256(path, b, &err), OK);
    assert_string_equal(a, b);
    made_remove(dir);
    made_remove(other);
}

static void test_prefix(void **state) {
    (void)state;
    char dir[600];
    Err err = {0};
    Dataset d;
    int32_t out[8];
    MadePatient p = {.key = 5, .statics = {MADE_SEX_M, 39}, .group = {2}, .observation_end = 525960 * 3};
    made_push(&p, MADE_VISIT, 0);
    made_push(&p, MADE_VISIT_END, 500000);
    made_push(&p, MADE_VISIT, 525960); /* the 40th birthday, more or less */
    made_push(&p, MADE_VISIT_END, 525961);
    MadeSplit split[SPLIT_COUNT] = {{&p, 1}};
    in_root(dir, sizeof dir, "prefix");
    made_write(dir, split, 0, NULL);
    assert_int_equal(dataset_open(&d, dir, &err), OK);
    PatientView v;
    assert_int_equal(dataset_patient(&d, 0, 0, &v, &err), OK);
    const struct {
        int at, first, age;
    } want[] = {{0, TOKEN_START, 35}, {1, TOKEN_CONTINUES, 35}, {2, TOKEN_CONTINUES, 35}, {3, TOKEN_CONTINUES, 40},
                {4, TOKEN_CONTINUES, 40}, {4 + 9, TOKEN_CONTINUES, 40}, {4 + 10, TOKEN_CONTINUES, 40}, {4 + 11, TOKEN_CONTINUES, 45}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        assert_int_equal(dataset_prefix(&d, &v, want[i].at, out, 8), 3);
        assert_int_equal(out[0], want[i].first);
        assert_int_equal(out[1], MADE_SEX_M);
        assert_int_equal(out[2], MADE_AGE + (want[i].age - 15) / 5);
    }
    out[2] = -7;
    assert_int_equal(dataset_prefix(&d, &v, 0, out, 2), 2);
    assert_int_equal(out[2], -7);
    dataset_close(&d);
    made_patient_free(&p);
    made_remove(dir);
}

/* One token; a million; none at all; wide ids and an oracle column, written and read directly. */
static void test_extremes(void **state) {
    (void)state;
    char dir[600];
    Err err = {0};
    Dataset d;
    MadePatient p[3] = {{.key = 1, .statics = {MADE_SEX_F, 30}}, {.key = 2, .statics = {MADE_SEX_F, 31}},
                        {.key = 3, .statics = {MADE_SEX_M, 32}}};
    made_push(&p[0], MADE_VISIT, 0);
    for (int i = 0; i < 1000000; i++) made_push(&p[1], (uint32_t)(MADE_EVENT + i % 20), i);
    p[1].observation_end = 1000000;
    for (int i = 0; i < 3; i++) {
        p[i].oracle_logp = xcalloc((size_t)p[i].n, sizeof(float));
        for (int64_t t = 0; t < p[i].n; t++) p[i].oracle_logp[t] = t % 3 ? -0.5f * (float)(t % 7) : NAN;
    }
    MadeSplit split[SPLIT_COUNT] = {{p, 3}, {p, 0}, {p, 0}};
    in_root(dir, sizeof dir, "extremes");
    made_write(dir, split, 1, "made up");
    assert_int_equal(dataset_open(&d, dir, &err), OK);
    assert_true(d.floor_valid);
    assert_int_equal(d.n_patients[SPLIT_TUNING], 0);
    for (int i = 0; i < 3; i++) {
        PatientView v;
        assert_int_equal(dataset_patient(&d, 0, i, &v, &err), OK);
        assert_patient(&v, &p[i]);
        assert_non_null(v.oracle_logp);
        if (p[i].n) assert_memory_equal(v.oracle_logp, p[i].oracle_logp, sizeof(float) * (size_t)p[i].n);
        made_patient_free(&p[i]);
    }
    dataset_close(&d);
    made_remove(dir);
}

/* ---- writing fails cleanly ------------------------------------------------------------------------------------------ */

static void test_writer_errors(void **state) {
    (void)state;
    Err err = {0};
    ShardWriter *w;
    assert_int_equal(shard_writer_open(&w, "/no/such/folder/x.h5", 0, 1, 1, 0, &err), ERR_IO);
    assert_mentions(&err, "/no/such/folder/x.h5");
    char path[600];
    in_root(path, sizeof path, "aborted.h5");
    assert_int_equal(shard_writer_open(&w, path, 0, 1, 1, 0, &err), OK);
    shard_writer_abort(w);
    assert_false(path_exists(path));
    /* A folder stands where the shard should go: nothing but the folder may be left. */
    assert_int_equal(mkdir(path, 0777), 0);
    assert_int_equal(shard_writer_open(&w, path, 0, 1, 1, 0, &err), OK);
    assert_int_equal(shard_writer_close(w, "{}", "x", &err), ERR_IO);
    char *tmp = xasprintf("%s.tmp", path);
    assert_false(path_exists(tmp));
    free(tmp);
}

/* A disk that fills up while patients are added, and one that fills up while the shard is put together: an error, and
 * nothing under either name. */
static void test_disk_full(void **state) {
    (void)state;
    enum { N = 100000 };
    char path[600];
    Err err = {0};
    struct rlimit before, small;
    uint32_t *tokens = xcalloc(N, sizeof *tokens);
    int32_t *minutes = xcalloc(N, sizeof *minutes);
    in_root(path, sizeof path, "full.h5");
    char *tmp = xasprintf("%s.tmp", path);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    static const rlim_t limits[] = {4096, 100000, 410000, 500000, 599000};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        ShardWriter *w;
        assert_int_equal(shard_writer_open(&w, path, 0, 1, 1, 0, &err), OK);
        small = (struct rlimit){limits[i], before.rlim_max};
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
        Status status = shard_writer_patient(w, 1, tokens, minutes, N, (uint16_t[]){3, 40}, (uint8_t[]){1}, 0, NULL, &err);
        if (status) shard_writer_abort(w);
        else status = shard_writer_close(w, "{}", "x", &err);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        assert_int_equal(status, ERR_IO);
        assert_mentions(&err, "full.h5");
        assert_false(path_exists(path));
        assert_false(path_exists(tmp));
    }
    Table t;
    table_init(&t, N);
    table_add(&t, "x", COLUMN_F64);
    for (rlim_t limit = 4096; limit < 800000; limit += 150000) {
        small = (struct rlimit){limit, before.rlim_max};
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
        Status status = table_write_h5(&t, path, &err);
        Status csv = table_write_csv(&t, path, 0, &err);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        assert_int_equal(status, ERR_IO);
        if (limit < 200000) assert_int_equal(csv, ERR_IO);
        else unlink(path);
        assert_false(path_exists(path));
        assert_false(path_exists(tmp));
    }
    table_free(&t);
    free(tmp);
    free(tokens);
    free(minutes);
}

/* A long de-identification record passes the 64 KiB that an HDF5 object header could hold. */
static void test_long_attribute(void **state) {
    (void)state;
    char path[600];
    Err err = {0};
    ShardWriter *w;
    char *text = xmalloc(200001);
    memset(text, 'x', 200000);
    text[200000] = 0;
    in_root(path, sizeof path, "long.h5");
    assert_int_equal(shard_writer_open(&w, path, 0, 1, 1, 0, &err), OK);
    assert_int_equal(shard_writer_close(w, text, "x", &err), OK);
    free(text);
}

/* ---- damage --------------------------------------------------------------------------------------------------------- */

/* Reads every patient; OK only when each is what was written. */
static Status read_all(const char *dir, uint64_t seed, int n, int *same, Err *err) {
    Dataset d;
    Status status = dataset_open(&d, dir, err);
    if (status) return status;
    int64_t row[SPLIT_COUNT] = {0};
    *same = 1;
    for (int i = 0; i < n && !status; i++) {
        int s = i % 10 == 8 ? SPLIT_TUNING : i % 10 == 9 ? SPLIT_HELD_OUT : SPLIT_TRAIN;
        MadePatient p;
        PatientView v;
        status = dataset_patient(&d, s, row[s]++, &v, err);
        if (status) break;
        made_patient(&p, seed, i);
        *same &= v.key == p.key && v.n == p.n && v.observation_end == p.observation_end && v.statics[0] == p.statics[0] &&
                 v.age_years == p.statics[1] && v.group[0] == p.group[0];
        for (int64_t t = 0; *same && t < p.n; t++)
            *same &= patient_token(&v, t) == p.tokens[t] && v.minutes[t] == p.minutes[t];
        made_patient_free(&p);
    }
    dataset_close(&d);
    return status;
}

static void write_bytes(const char *path, const char *data, size_t size) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    fclose(f);
}

static void test_damage(void **state) {
    (void)state;
    char dir[600], path[700], *whole, *copy;
    size_t size;
    Err err = {0};
    int same, harmless = 0, refused = 0;
    in_root(dir, sizeof dir, "damage");
    make_dataset(dir, 40, 3);
    snprintf(path, sizeof path, "%s/train-00000.h5", dir);
    assert_int_equal(file_read(path, 1 << 26, &whole, &size, &err), OK);
    assert_int_equal(read_all(dir, 3, 40, &same, &err), OK);
    assert_true(same);
    copy = xmalloc(size);
    for (int i = 0; i < 400; i++) {
        /* Half of the positions in the first 4 KiB, where HDF5 keeps its structure. */
        Philox4 r = philox4x32(99, (uint64_t)i, 0);
        size_t at = (i % 2 ? (size_t)r.v[0] % (size < 4096 ? size : 4096) : (size_t)r.v[0] % size);
        memcpy(copy, whole, size);
        copy[at] ^= (char)(1 << r.v[1] % 8);
        write_bytes(path, copy, size);
        err.msg[0] = 0;
        Status status = read_all(dir, 3, 40, &same, &err);
        if (status) {
            refused++;
            if (!err.msg[0]) fail_msg("flip at %zu: refused without a message", at);
        } else {
            harmless++;
            if (!same) fail_msg("flip at %zu: other content was read without an error", at);
        }
    }
    assert_true(refused > 100);
    for (int i = 0; i < 40; i++) {
        size_t keep = size * (size_t)i / 40;
        write_bytes(path, whole, keep);
        assert_int_not_equal(read_all(dir, 3, 40, &same, &err), OK);
    }
    free(copy);
    free(whole);
    made_remove(dir);
}

/* ---- content that is not what a shard may say ------------------------------------------------------------------------ */

static void expect_refused(MadePatient *p, const char *mention, int at_open) {
    char dir[600];
    Err err = {0};
    Dataset d;
    PatientView v;
    MadeSplit split[SPLIT_COUNT] = {{p, 1}};
    in_root(dir, sizeof dir, "content");
    made_write(dir, split, 0, NULL);
    Status status = dataset_open(&d, dir, &err);
    if (at_open) assert_int_equal(status, ERR_FORMAT);
    if (!status) {
        assert_int_equal(dataset_patient(&d, 0, 0, &v, &err), ERR_FORMAT);
        dataset_close(&d);
    }
    assert_mentions(&err, mention);
    made_patient_free(p);
    made_remove(dir);
}

static void test_content(void **state) {
    (void)state;
    MadePatient p = {.statics = {MADE_SEX_F, 30}};
    made_push(&p, MADE_VOCABULARY, 0);
    expect_refused(&p, "vocabulary has 62 tokens", 0);
    p = (MadePatient){.statics = {MADE_SEX_F, 30}};
    made_push(&p, MADE_VISIT, 10);
    made_push(&p, MADE_VISIT, 9);
    expect_refused(&p, "descend", 0);
    p = (MadePatient){.statics = {MADE_SEX_F, 30}};
    made_push(&p, MADE_VISIT, -1);
    expect_refused(&p, "descend", 0);
    p = (MadePatient){.statics = {200, 30}};
    made_push(&p, MADE_VISIT, 0);
    expect_refused(&p, "static token", 0);
}

/* dataset.json with one thing changed. */
static void expect_json_refused(const char *from, const char *to, const char *mention) {
    char dir[600], path[700], *json, *at;
    Err err = {0};
    Dataset d;
    in_root(dir, sizeof dir, "json");
    make_dataset(dir, 10, 8);
    snprintf(path, sizeof path, "%s/dataset.json", dir);
    assert_int_equal(file_read(path, 1 << 20, &json, NULL, &err), OK);
    at = strstr(json, from);
    assert_non_null(at);
    char *changed = xasprintf("%.*s%s%s", (int)(at - json), json, to, at + strlen(from));
    write_bytes(path, changed, strlen(changed));
    if (!dataset_open(&d, dir, &err)) fail_msg("opened although '%s' became '%s'", from, to);
    assert_mentions(&err, mention);
    free(changed);
    free(json);
    made_remove(dir);
}

static void test_json(void **state) {
    (void)state;
    expect_json_refused("{", "", "dataset.json");
    expect_json_refused("ehr.c dataset", "some dataset", "format");
    expect_json_refused("\"format_version\": 1", "\"format_version\": 2", "version 2");
    expect_json_refused("train-00000.h5", "../train-00000.h5", "not the name of a file in this folder");
    expect_json_refused("train-00000.h5", "train-00001.h5", "train-00001.h5");
    expect_json_refused("train-00000.h5", "vocabulary.json", "HDF5");
    expect_json_refused("\"patients\": 8,", "\"patients\": 9,", "dataset.json says 9");
    expect_json_refused("\"vocabulary.json\"", "\"dataset.json\"", "not a vocabulary");
    expect_json_refused("\"labels\": [", "\"labels\": [4, ", "group label");
}

/* A pipe without a writer stands where a file should: whatever reads it says so instead of waiting for ever. */
static void pipe_at(const char *path) {
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0);
}

static void test_pipes(void **state) {
    (void)state;
    static const char *const files[] = {"dataset.json", "vocabulary.json", "train-00000.h5"};
    char dir[600], path[700], hex[65];
    Err err = {0};
    alarm(60); /* ends the test when one waits */
    in_root(dir, sizeof dir, "pipes");
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        Dataset d;
        make_dataset(dir, 10, 8);
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        pipe_at(path);
        assert_true(dataset_open(&d, dir, &err));
        assert_mentions(&err, files[i]);
        assert_mentions(&err, "not a regular file");
        ValidateReport r;
        assert_int_equal(validate_dataset(&r, dir, NULL, &err), OK);
        assert_true(report_count(&r, SEVERITY_ERROR) > 0);
        report_free(&r);
        made_remove(dir);
    }
    in_root(path, sizeof path, "pipe");
    pipe_at(path);
    Table t;
    EventFile f;
    Safetensors st;
    assert_int_equal(file_sha256(path, hex, &err), ERR_IO);
    assert_int_equal(table_read_h5(&t, path, &err), ERR_FORMAT);
    assert_int_equal(event_file_open(&f, path, &err), ERR_FORMAT);
    assert_int_equal(safetensors_open(&st, path, &err), ERR_IO);
    alarm(0);
    unlink(path);
}

/* ---- wrong kinds of files -------------------------------------------------------------------------------------------- */

static void expect_open_fails(const char *path, const char *mention) {
    Err err = {0};
    Dataset d;
    Status status = dataset_open(&d, path, &err);
    assert_true(status == ERR_FORMAT || status == ERR_IO);
    assert_mentions(&err, mention);
}

static void test_wrong_kinds(void **state) {
    (void)state;
    char dir[600], path[700];
    Err err = {0};
    in_root(dir, sizeof dir, "kinds");
    expect_open_fails(dir, "No such file");
    assert_int_equal(dir_make(dir, &err), OK);
    expect_open_fails(dir, "no dataset.json");
    snprintf(path, sizeof path, "%s/PERSON.csv", dir);
    write_bytes(path, "person_id\n", 10);
    expect_open_fails(dir, "ehr-data import omop");
    snprintf(path, sizeof path, "%s/latest", dir);
    write_bytes(path, "", 0);
    expect_open_fails(dir, "training run");
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    write_bytes(path, "", 0);
    expect_open_fails(dir, "checkpoint");
    expect_open_fails(path, "dataset folder was expected");
    snprintf(path, sizeof path, "%s/records.ZIP", dir);
    write_bytes(path, "PK", 2);
    expect_open_fails(path, "ehr-data import");
    made_remove(dir);
    make_dataset(dir, 10, 1);
    snprintf(path, sizeof path, "%s/train-00000.h5", dir);
    expect_open_fails(path, "one shard");
    made_remove(dir);

    EventWriter *w;
    uint32_t code;
    int64_t patients, events, duplicates;
    in_root(path, sizeof path, "events.h5");
    assert_int_equal(event_writer_open(&w, path, 1 << 20, &err), OK);
    assert_int_equal(event_writer_code(w, "VISIT//OUT", KIND_VISIT_START, NULL, NULL, &code, &err), OK);
    assert_int_equal(event_writer_add(w, &(Event){.subject = 1, .code = code, .value = NAN}, &err), OK);
    assert_int_equal(event_writer_subject(w, 1, US_PER_DAY, SPLIT_UNSET, &err), OK);
    assert_int_equal(event_writer_close(w, "test", "{}", &patients, &events, &duplicates, &err), OK);
    expect_open_fails(path, "run `ehr-data tokenize` first");
}

/* ---- tables ----------------------------------------------------------------------------------------------------------- */

static void test_table(void **state) {
    (void)state;
    char path[600], *text;
    Err err = {0};
    Table t, back;
    table_init(&t, 3);
    uint64_t *key = table_add(&t, "patient_key", COLUMN_U64);
    int64_t *split = table_add(&t, "split", COLUMN_I64);
    double *risk = table_add(&t, "risk", COLUMN_F64);
    key[0] = UINT64_MAX;
    split[1] = INT64_MIN;
    risk[0] = 0.1;
    risk[1] = NAN;
    risk[2] = 1e-300;
    table_set(&t, "task", "{\"a\": 1}");
    table_set(&t, "name", "death\n1y");
    table_set(&t, "name", "");
    table_set(&t, "name", "death\n2y");
    in_root(path, sizeof path, "t.h5");
    assert_int_equal(table_write_h5(&t, path, &err), OK);
    assert_int_equal(table_read_h5(&back, path, &err), OK);
    assert_int_equal(back.n, 3);
    assert_int_equal(back.n_columns, 3);
    assert_int_equal(back.n_attributes, 2);
    assert_string_equal(back.column[0].name, "patient_key");
    assert_string_equal(back.column[1].name, "split");
    assert_memory_equal(table_get(&back, "patient_key", COLUMN_U64), key, 24);
    assert_memory_equal(table_get(&back, "split", COLUMN_I64), split, 24);
    assert_memory_equal(table_get(&back, "risk", COLUMN_F64), risk, 24);
    assert_null(table_get(&back, "risk", COLUMN_I64));
    assert_string_equal(table_attribute(&back, "task"), "{\"a\": 1}");
    assert_string_equal(table_attribute(&back, "name"), "death\n2y");
    assert_null(table_attribute(&back, "format"));
    table_free(&back);
    in_root(path, sizeof path, "t.csv");
    synced = 0;
    assert_int_equal(table_write_csv(&t, path, 1, &err), OK);
    assert_int_equal(synced, 2); /* the file, then its folder: what it was made of may be removed now */
    assert_int_equal(file_read(path, 4096, &text, NULL, &err), OK);
    assert_string_equal(text, "# task: {\"a\": 1}\n# name: death 2y\npatient_key,split,risk\n"
                              "18446744073709551615,0,0.1\n0,-9223372036854775808,\n0,0,1e-300\n");
    free(text);
    table_free(&t);
    table_init(&t, 0);
    table_add(&t, "x", COLUMN_F64);
    in_root(path, sizeof path, "empty.h5");
    assert_int_equal(table_write_h5(&t, path, &err), OK);
    assert_int_equal(table_read_h5(&back, path, &err), OK);
    assert_int_equal(back.n, 0);
    assert_int_equal(back.n_columns, 1);
    table_free(&back);
    table_free(&t);
}

static void test_table_errors(void **state) {
    (void)state;
    char path[600], shard[600], *whole;
    size_t size;
    Err err = {0};
    Table t;
    assert_int_equal(table_read_h5(&t, "/no/such/table.h5", &err), ERR_IO);
    in_root(shard, sizeof shard, "shard.h5");
    ShardWriter *w;
    assert_int_equal(shard_writer_open(&w, shard, 0, 1, 1, 0, &err), OK);
    assert_int_equal(shard_writer_close(w, "{}", "x", &err), OK);
    assert_int_equal(table_read_h5(&t, shard, &err), ERR_FORMAT);
    assert_mentions(&err, "ehr.c shard");
    table_init(&t, 1000);
    table_add(&t, "x", COLUMN_F64);
    assert_int_equal(table_write_h5(&t, "/no/such/folder/t.h5", &err), ERR_IO);
    assert_int_equal(table_write_csv(&t, "/no/such/folder/t.csv", 0, &err), ERR_IO);
    in_root(path, sizeof path, "cut.h5");
    assert_int_equal(table_write_h5(&t, path, &err), OK);
    table_free(&t);
    assert_int_equal(file_read(path, 1 << 20, &whole, &size, &err), OK);
    for (size_t i = 0; i < 20; i++) {
        write_bytes(path, whole, size * i / 20);
        assert_int_equal(table_read_h5(&t, path, &err), ERR_FORMAT);
    }
    free(whole);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crc32c),        cmocka_unit_test(test_sha256),         cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_same_bytes),    cmocka_unit_test(test_prefix),         cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_writer_errors), cmocka_unit_test(test_disk_full), cmocka_unit_test(test_long_attribute), cmocka_unit_test(test_damage),
        cmocka_unit_test(test_content),       cmocka_unit_test(test_json), cmocka_unit_test(test_pipes),          cmocka_unit_test(test_wrong_kinds),
        cmocka_unit_test(test_table),         cmocka_unit_test(test_table_errors),
    };
    return cmocka_run_group_tests(tests, folder_open, folder_remove);
}
