/* test_events.c - events files: what goes in comes out in timeline order, the bytes do not depend on the order of arrival
 * or on the memory, and no damage goes unseen. */
#include "data/event_format.h"
#include "kernels/philox.h"
#include <fcntl.h>
#include <hdf5.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static char folder[256];

static const char *at(const char *name) {
    static char path[4][512];
    static int  turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

static int folder_make(void **state) {
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/test_events-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    return mkdtemp(folder) ? 0 : -1;
}

static int folder_remove(void **state) {
    (void)state;
    char command[300];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

static char *slurp(const char *path, size_t *size) {
    Err err;
    char *data;
    assert_int_equal(file_read(path, 1u << 30, &data, size, &err), OK);
    return data;
}

static void assert_same_bytes(const char *a, const char *b) {
    size_t na, nb;
    char *x = slurp(a, &na), *y = slurp(b, &nb);
    assert_int_equal(na, nb);
    assert_memory_equal(x, y, na);
    free(x);
    free(y);
}

/* ---- a cohort to write ------------------------------------------------------------------------------------------- */

enum { N_EVENTS = 40000, N_SUBJECTS = 700, N_CODES = 40 };

static double draw(uint64_t i, uint64_t what) { return philox_uniform(philox4x32(7, i, what), 0); }

static void cohort_event(EventWriter *w, int64_t i, Event *e) {
    Err err;
    char code[64], name[64], parent[64];
    int c = (int)(draw((uint64_t)i, 1) * N_CODES);
    snprintf(code, sizeof code, "TEST//%d", c * 7919 % 1000);
    snprintf(name, sizeof name, "name %d of %d", (int)(draw((uint64_t)i, 9) * 3), c);
    snprintf(parent, sizeof parent, "TEST//parent %d", c % 10);
    int is_static = draw((uint64_t)i, 2) < 0.01;
    *e = (Event){.subject = (int64_t)(draw((uint64_t)i, 3) * N_SUBJECTS) * 1000003 - 5000,
                 .visit = (uint32_t)(draw((uint64_t)i, 5) * 3),
                 .value = draw((uint64_t)i, 6) < 0.5 ? NAN : (float)(int)(draw((uint64_t)i, 7) * 20 - 10),
                 .comparator = (uint8_t)(draw((uint64_t)i, 8) * 5), .precision = (uint8_t)(draw((uint64_t)i, 10) * 2),
                 .source_row = (uint32_t)i};
    e->time = is_static ? TIME_NONE : (int64_t)(draw((uint64_t)i, 4) * 8) * US_PER_DAY;
    e->available = is_static ? TIME_NONE : e->time / (4 * US_PER_DAY) * 4 * US_PER_DAY + 5 * US_PER_DAY;
    if (e->value == 0) e->value = i % 2 ? 0.0f : -0.0f;
    assert_int_equal(event_writer_code(w, code, is_static ? KIND_STATIC : KIND_BIRTH + 1 + c % 9, name, parent, &e->code, &err),
                     OK);
    assert_int_equal(event_writer_unit(w, c % 4 ? "mg/dL" : c % 8 ? "" : "mmol/L", &e->unit, &err), OK);
}

/* order 0: as drawn; 1: reversed; 2: scattered.  Every 10th event is written twice. */
static void cohort_write(const char *path, int64_t memory, int order, int64_t counts[3]) {
    Err err = {0};
    EventWriter *w;
    assert_int_equal(event_writer_open(&w, path, memory, &err), OK);
    for (int64_t k = 0; k < N_EVENTS; k++) {
        int64_t i = order == 0 ? k : order == 1 ? N_EVENTS - 1 - k : k * 7919 % N_EVENTS;
        Event e;
        cohort_event(w, i, &e);
        for (int twice = 0; twice <= (i % 10 == 0); twice++) assert_int_equal(event_writer_add(w, &e, &err), OK);
    }
    for (int64_t k = 0; k < N_SUBJECTS + 5; k++) { /* 5 subjects without events */
        int64_t i = order == 1 ? N_SUBJECTS + 4 - k : k;
        assert_int_equal(event_writer_subject(w, i * 1000003 - 5000, i * US_PER_DAY, i % 2 ? SPLIT_TUNING : SPLIT_UNSET, &err),
                         OK);
    }
    Status s = event_writer_close(w, "test", "{\"made\": \"for a test\"}", &counts[0], &counts[1], &counts[2], &err);
    if (s) fail_msg("%s", err.msg);
}

static void read_all(const char *path) {
    Err err = {0};
    EventFile f;
    assert_int_equal(event_file_open(&f, path, &err), OK);
    int64_t total = 0, before = INT64_MIN;
    for (int64_t r = 0; r < f.n_patients; r++) {
        EventPatient p;
        assert_int_equal(event_file_patient(&f, r, &p, &err), OK);
        assert_true(p.subject > before && p.n > 0);
        assert_int_equal(p.first_event, total);
        int64_t i = (p.subject + 5000) / 1000003;
        assert_int_equal(p.observation_end, i * US_PER_DAY);
        assert_int_equal(p.split, i % 2 ? SPLIT_TUNING : SPLIT_UNSET);
        for (int64_t k = 1; k < p.n; k++) {
            const Event *a = &p.event[k - 1], *b = &p.event[k];
            assert_true(a->available <= b->available);
            if (a->available != b->available) continue;
            assert_true(f.code_kind[a->code] <= f.code_kind[b->code]);
            if (f.code_kind[a->code] != f.code_kind[b->code]) continue;
            assert_true(a->code <= b->code);
            if (a->code == b->code) assert_true(a->value <= b->value || isnan(b->value));
        }
        before = p.subject;
        total += p.n;
    }
    assert_int_equal(total, f.n_events);
    event_file_close(&f);
}

/* ---- tests ------------------------------------------------------------------------------------------------------- */

static void test_round_trip(void **state) {
    (void)state;
    Err err = {0};
    EventWriter *w;
    assert_int_equal(event_writer_open(&w, at("a.h5"), 1 << 20, &err), OK);
    uint32_t lab, sex, dx;
    uint16_t unit;
    assert_int_equal(event_writer_code(w, "LOINC//4548-4", KIND_LAB, "Hemoglobin A1c", NULL, &lab, &err), OK);
    assert_int_equal(event_writer_code(w, "SEX//F", KIND_STATIC, NULL, NULL, &sex, &err), OK);
    assert_int_equal(event_writer_code(w, "ICD10CM//E11.9", KIND_DIAGNOSIS, "b", "ICD10CM//E11", &dx, &err), OK);
    assert_int_equal(event_writer_code(w, "ICD10CM//E11.9", KIND_OTHER, "a", "ICD10CM//E11", &dx, &err), OK);
    assert_int_equal(event_writer_unit(w, "%", &unit, &err), OK);
    int64_t t = time_from_civil(2020, 2, 29, 13, 5, 0);
    Event e[4] = {{.subject = -3, .time = t, .available = t, .code = dx, .value = NAN, .visit = 2},
                  {.subject = -3, .time = t, .available = t, .code = lab, .value = 6.5f, .unit = unit,
                   .comparator = COMPARE_GE, .precision = PRECISION_DAY},
                  {.subject = -3, .time = TIME_NONE, .available = TIME_NONE, .code = sex, .value = NAN,
                   .precision = PRECISION_NONE},
                  {.subject = -3, .time = t - US_PER_DAY, .available = t + US_PER_DAY, .code = dx, .value = -INFINITY}};
    for (int i = 0; i < 3; i++) assert_int_equal(event_writer_add(w, &e[i], &err), OK);
    assert_int_equal(event_writer_add(w, &e[3], &err), ERR_FORMAT);
    e[3].value = 1;
    e[3].available = TIME_NONE;
    assert_int_equal(event_writer_add(w, &e[3], &err), ERR_FORMAT);
    assert_int_equal(event_writer_subject(w, -3, t + 5, SPLIT_UNSET, &err), OK);
    char *provenance = xmalloc(200001); /* larger than an HDF5 attribute in its compact form may be */
    memset(provenance, 'x', 200000);
    provenance[200000] = 0;
    int64_t np, ne, nd;
    assert_int_equal(event_writer_close(w, "test", provenance, &np, &ne, &nd, &err), OK);
    assert_int_equal(np, 1);
    assert_int_equal(ne, 3);
    assert_int_equal(nd, 0);

    EventFile f;
    assert_int_equal(event_file_open(&f, at("a.h5"), &err), OK);
    assert_string_equal(f.provenance, provenance);
    assert_string_equal(f.source, "test");
    assert_int_equal(f.n_codes, 3);
    int64_t c = event_file_code(&f, "ICD10CM//E11.9");
    assert_int_equal(c, 0);
    assert_int_equal(event_file_code(&f, "ICD10CM//E1"), -1);
    assert_string_equal(f.code_name[c], "a");
    assert_string_equal(f.code_parent[c], "ICD10CM//E11");
    assert_int_equal(f.code_kind[c], KIND_DIAGNOSIS);
    EventPatient p;
    assert_int_equal(event_file_patient(&f, 0, &p, &err), OK);
    assert_int_equal(p.subject, -3);
    assert_int_equal(p.observation_end, t + 5);
    assert_int_equal(p.split, SPLIT_UNSET);
    assert_int_equal(p.n, 3);
    assert_string_equal(f.codes[p.event[0].code], "SEX//F");
    assert_true(p.event[0].time == TIME_NONE && isnan(p.event[0].value));
    assert_string_equal(f.codes[p.event[1].code], "LOINC//4548-4");
    assert_string_equal(f.units[p.event[1].unit], "%");
    assert_true(p.event[1].value == 6.5f && p.event[1].comparator == COMPARE_GE && p.event[1].precision == PRECISION_DAY);
    assert_int_equal(p.event[2].visit, 2);
    assert_int_equal(event_file_patient(&f, 1, &p, &err), ERR_USAGE);
    event_file_close(&f);
    free(provenance);
}

static void test_order_and_memory(void **state) {
    (void)state;
    int64_t a[3], b[3];
    cohort_write(at("all.h5"), 64 << 20, 0, a);
    assert_true(a[2] >= N_EVENTS / 10 && a[0] > 600 && a[1] + a[2] == N_EVENTS + N_EVENTS / 10);
    for (int order = 0; order < 3; order++) {
        cohort_write(at("less.h5"), 1 << 20, order, b); /* several runs */
        assert_memory_equal(a, b, sizeof a);
        assert_same_bytes(at("all.h5"), at("less.h5"));
    }
    read_all(at("all.h5"));
    char command[300];
    snprintf(command, sizeof command, "ls '%s' | grep -c -e sort -e tmp > /dev/null", folder);
    assert_int_not_equal(system(command), 0); /* nothing left over */
}

/* A kind that changes after rows were sorted by it and spilled: the bytes are those of a writer that knew it at once. */
static void test_late_kind(void **state) {
    (void)state;
    for (int late = 0; late < 2; late++) {
        Err err = {0};
        EventWriter *w;
        uint32_t a, b;
        assert_int_equal(event_writer_open(&w, at(late ? "late.h5" : "early.h5"), 1 << 20, &err), OK);
        assert_int_equal(event_writer_code(w, "A", late ? KIND_OTHER : KIND_LAB, NULL, NULL, &a, &err), OK);
        assert_int_equal(event_writer_code(w, "B", KIND_DRUG, NULL, NULL, &b, &err), OK);
        for (int i = 0; i < 50000; i++) {
            Event e = {.subject = i % 97, .time = i % 11, .available = i % 11, .code = i % 2 ? a : b, .value = (float)i};
            assert_int_equal(event_writer_add(w, &e, &err), OK);
        }
        if (late) assert_int_equal(event_writer_code(w, "A", KIND_LAB, NULL, NULL, &a, &err), OK);
        assert_int_equal(event_writer_close(w, "test", "", NULL, NULL, NULL, &err), OK);
    }
    assert_same_bytes(at("early.h5"), at("late.h5"));
}

static void test_random_access(void **state) {
    (void)state;
    Err err = {0};
    EventFile f, g;
    EventPatient p, q;
    int64_t counts[3];
    cohort_write(at("r.h5"), 64 << 20, 0, counts);
    assert_int_equal(event_file_open(&f, at("r.h5"), &err), OK);
    assert_int_equal(event_file_open(&g, at("r.h5"), &err), OK);
    for (int64_t k = 0; k < f.n_patients; k++) {
        int64_t r = k * 331 % f.n_patients;
        assert_int_equal(event_file_patient(&f, r, &p, &err), OK);
        assert_int_equal(event_file_patient(&g, r / 2, &q, &err), OK);
        assert_int_equal(event_file_patient(&g, r, &q, &err), OK);
        assert_int_equal(p.n, q.n);
        assert_memory_equal(p.event, q.event, (size_t)p.n * sizeof *p.event);
    }
    event_file_close(&f);
    event_file_close(&g);
}

static void test_empty(void **state) {
    (void)state;
    Err err = {0};
    EventWriter *w;
    int64_t np = -1;
    assert_int_equal(event_writer_open(&w, at("empty.h5"), 1 << 20, &err), OK);
    assert_int_equal(event_writer_subject(w, 1, 0, SPLIT_TRAIN, &err), OK);
    assert_int_equal(event_writer_close(w, "test", "", &np, NULL, NULL, &err), OK);
    assert_int_equal(np, 0);
    EventFile f;
    assert_int_equal(event_file_open(&f, at("empty.h5"), &err), OK);
    assert_int_equal(f.n_events, 0);
    event_file_close(&f);
}

static void test_refusals(void **state) {
    (void)state;
    Err err = {0};
    EventWriter *w;
    EventFile f;
    uint32_t code;
    uint16_t unit;
    char longer[400];
    memset(longer, 'x', sizeof longer);
    longer[399] = 0;
    assert_int_equal(event_writer_open(&w, at("twice.h5"), 1 << 20, &err), OK);
    assert_int_equal(event_writer_code(w, longer, KIND_LAB, NULL, NULL, &code, &err), ERR_FORMAT);
    assert_int_equal(event_writer_code(w, "", KIND_LAB, NULL, NULL, &code, &err), ERR_FORMAT);
    assert_int_equal(event_writer_unit(w, longer, &unit, &err), ERR_FORMAT);
    for (int i = 0; i < 2; i++) assert_int_equal(event_writer_subject(w, 9, i, SPLIT_TRAIN, &err), OK);
    assert_int_equal(event_writer_close(w, "test", "", NULL, NULL, NULL, &err), ERR_FORMAT);
    assert_non_null(strstr(err.msg, "subject 9"));
    assert_false(path_exists(at("twice.h5")));

    assert_int_equal(event_writer_open(&w, at("many.h5"), 1 << 20, &err), OK);
    Status s = OK;
    for (int i = 0; i < 100000 && !s; i++) {
        snprintf(longer, sizeof longer, "CODE//%d", i);
        s = event_writer_code(w, longer, KIND_LAB, NULL, NULL, &code, &err);
    }
    assert_int_equal(s, ERR_NOMEM);
    event_writer_abort(w);
    assert_int_equal(event_writer_open(&w, at("no/such/folder/a.h5"), 1 << 20, &err), OK);
    assert_int_equal(event_writer_close(w, "test", "", NULL, NULL, NULL, &err), ERR_IO);

    assert_int_equal(event_file_open(&f, at("absent.h5"), &err), ERR_IO);
    assert_int_equal(event_file_open(&f, folder, &err), ERR_FORMAT);
    assert_int_equal(file_write(at("text.h5"), "person_id,\n1,\n", 14, &err), OK);
    assert_int_equal(event_file_open(&f, at("text.h5"), &err), ERR_FORMAT);
    hid_t h = H5Fcreate(at("other.h5"), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    H5Fclose(h);
    assert_int_equal(event_file_open(&f, at("other.h5"), &err), ERR_FORMAT);
}

/* Seals a file that was changed on purpose, so that what is behind the seal is tested too. */
static void seal_again(const char *path, int64_t cut) {
    Err err;
    struct stat st;
    unsigned char seal[EVENT_SEAL];
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0 && !fstat(fd, &st));
    int64_t size = (int64_t)st.st_size - cut;
    assert_int_equal(event_seal_compute(fd, path, size, 0, seal, NULL, &err), OK);
    assert_int_equal(pwrite(fd, seal, sizeof seal, (off_t)size), sizeof seal);
    close(fd);
}

/* A dataset replaced by a link to another file, or by one with a filter, is turned away. */
static void test_links_and_filters(void **state) {
    (void)state;
    for (int filter = 0; filter < 2; filter++) {
        int64_t counts[3];
        Err err = {0};
        EventFile f;
        cohort_write(at("link.h5"), 64 << 20, 0, counts);
        hid_t h = H5Fopen(at("link.h5"), H5F_ACC_RDWR, H5P_DEFAULT);
        assert_true(h >= 0);
        assert_true(H5Ldelete(h, "precision", H5P_DEFAULT) >= 0);
        if (filter) {
            hsize_t n = (hsize_t)counts[1], chunk = 1024;
            hid_t space = H5Screate_simple(1, &n, NULL), plist = H5Pcreate(H5P_DATASET_CREATE);
            H5Pset_chunk(plist, 1, &chunk);
            H5Pset_deflate(plist, 1);
            H5Dclose(H5Dcreate2(h, "precision", H5T_STD_U8LE, space, H5P_DEFAULT, plist, H5P_DEFAULT));
            H5Pclose(plist);
            H5Sclose(space);
        } else {
            H5Lcreate_external("all.h5", "/precision", h, "precision", H5P_DEFAULT, H5P_DEFAULT);
        }
        H5Fclose(h);
        assert_int_equal(event_file_open(&f, at("link.h5"), &err), ERR_FORMAT);
        seal_again(at("link.h5"), 0);
        assert_int_equal(event_file_open(&f, at("link.h5"), &err), ERR_FORMAT);
        assert_non_null(strstr(err.msg, "/precision"));
    }
}

/* Opens and reads a changed copy; returns 1 when that reports an error. */
static int damage_seen(const char *data, size_t size) {
    Err err = {0};
    EventFile f;
    EventPatient p;
    FILE *out = fopen(at("bad.h5"), "wb");
    fwrite(data, 1, size, out);
    fclose(out);
    Status s = event_file_open(&f, at("bad.h5"), &err);
    if (s) return err.msg[0] != 0;
    for (int64_t r = 0; r < f.n_patients && !s; r++) s = event_file_patient(&f, r, &p, &err);
    event_file_close(&f);
    return s != OK;
}

static void test_damage(void **state) {
    (void)state;
    Err err = {0};
    EventWriter *w;
    assert_int_equal(event_writer_open(&w, at("good.h5"), 1 << 20, &err), OK);
    for (int i = 0; i < 400; i++) {
        Event e;
        cohort_event(w, i, &e);
        assert_int_equal(event_writer_add(w, &e, &err), OK);
    }
    assert_int_equal(event_writer_close(w, "test", "{}", NULL, NULL, NULL, &err), OK);
    size_t size;
    char *data = slurp(at("good.h5"), &size);
    assert_false(damage_seen(data, size));
    for (size_t cut = 0; cut < size; cut += cut < 256 ? 17 : size / 20) assert_true(damage_seen(data, cut));
    assert_true(damage_seen(data, size - 1));
    for (size_t i = 0; i < size; i += i < 4096 ? 11 : size / 300) {
        data[i] = (char)(data[i] ^ (1 << i % 8));
        assert_true(damage_seen(data, size));
        data[i] = (char)(data[i] ^ (1 << i % 8));
    }
    free(data);
}

/* Wrong content under a right seal: a file made by a hostile or broken program. */
static void test_wrong_columns(void **state) {
    (void)state;
    static const struct { const char *name; int64_t byte; } wrong[] = {
        {"code", 3}, {"unit", 1}, {"comparator", 0}, {"precision", 0}, {"available", 8 * 20000 + 7}, {"patient_offsets", 14},
        {"patient_offsets", 8 * 30 + 7}, {"subject_id", 15}, {"split", 3}, {"code_kind", 0}, {"units", 0}};
    int64_t counts[3];
    cohort_write(at("good.h5"), 64 << 20, 0, counts);
    size_t size;
    char *data = slurp(at("good.h5"), &size);
    hid_t h = H5Fopen(at("good.h5"), H5F_ACC_RDONLY, H5P_DEFAULT);
    for (size_t k = 0; k < sizeof wrong / sizeof *wrong; k++) {
        hid_t set = H5Dopen2(h, wrong[k].name, H5P_DEFAULT);
        size_t where = H5Dget_offset(set) + (size_t)wrong[k].byte;
        H5Dclose(set);
        data[where] ^= 0x7c;
        FILE *out = fopen(at("sealed.h5"), "wb");
        fwrite(data, 1, size, out);
        fclose(out);
        seal_again(at("sealed.h5"), EVENT_SEAL);
        size_t n;
        char *changed = slurp(at("sealed.h5"), &n);
        if (!damage_seen(changed, n)) fail_msg("a wrong byte of /%s was not seen", wrong[k].name);
        free(changed);
        data[where] ^= 0x7c;
    }
    H5Fclose(h);
    free(data);
}

static void test_calendar(void **state) {
    (void)state;
    assert_int_equal(time_from_civil(1970, 1, 1, 0, 0, 0), 0);
    assert_int_equal(time_from_civil(2000, 3, 1, 0, 0, 1), 951868801ll * 1000000);
    assert_int_equal(time_from_civil(1969, 12, 31, 23, 59, 59), -1000000);
    for (int64_t day = -800000; day < 800000; day += 37) {
        int y, mo, d, h, mi, s;
        int64_t us = day * US_PER_DAY + (day % 86400 + 86400) % 86400 * 1000000ll;
        time_to_civil(us, &y, &mo, &d, &h, &mi, &s);
        assert_true(mo >= 1 && mo <= 12 && d >= 1 && d <= 31);
        assert_int_equal(time_from_civil(y, mo, d, h, mi, s), us);
    }
    assert_int_equal(split_find("val"), SPLIT_TUNING);
    assert_int_equal(split_find("test"), SPLIT_HELD_OUT);
    assert_int_equal(split_find("other"), -1);
    for (int k = 0; k < KIND_COUNT; k++) assert_int_equal(event_kind_find(event_kind_name(k)), k);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),        cmocka_unit_test(test_order_and_memory),
        cmocka_unit_test(test_late_kind),         cmocka_unit_test(test_random_access),
        cmocka_unit_test(test_empty),             cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_links_and_filters), cmocka_unit_test(test_damage),
        cmocka_unit_test(test_wrong_columns), cmocka_unit_test(test_calendar),
    };
    return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
