/* test_base.c - the leaves: errors, files, sizes, and the command line's one table. */
#include "model/base.h"
#include "model/flags.h"
#include "tests/sync_watch.h"
#include "tests/temp_files.h"

#include <fcntl.h>

/* ---- base -------------------------------------------------------------------------------------------------------- */

static void test_err(void **state) {
    (void)state;
    Err err = {OK, ""};
    assert_int_equal(err_set(&err, ERR_IO, "cannot read %s", "x.h5"), ERR_IO);
    assert_int_equal(err_context(&err, "opening shard %d", 3), ERR_IO);
    assert_string_equal(err.msg, "opening shard 3: cannot read x.h5");
    assert_int_equal(err_set(&err, ERR_FORMAT, "again: %s", err.msg), ERR_FORMAT); /* its own text as an argument */
    assert_string_equal(err.msg, "again: opening shard 3: cannot read x.h5");
    char big[4096];
    memset(big, 'a', sizeof big - 1);
    big[sizeof big - 1] = 0;
    err_set(&err, ERR_IO, "%s", big);
    assert_int_equal(strlen(err.msg), sizeof err.msg - 1);
    err_context(&err, "%s", big);
    assert_int_equal(strlen(err.msg), sizeof err.msg - 1);
    assert_int_equal(err_set(NULL, ERR_NOMEM, "nobody listens"), ERR_NOMEM);
}

static void test_alloc(void **state) {
    (void)state;
    assert_null(try_calloc(SIZE_MAX / 2, 3));
    char *p = try_calloc(3, 5);
    for (int i = 0; i < 15; i++) assert_int_equal(p[i], 0);
    free(p);
    free(try_calloc(0, 8));
}

/* As root a rename would put a plain file where /dev/null was. */
static void test_what_is_no_plain_file(void **state) {
    (void)state;
    Err err = {OK, ""};
    char *dir = temp_dir(), *pipe = xasprintf("%s/pipe", dir), *tmp = xasprintf("%s/made", dir), got[8];
    assert_int_equal(mkfifo(pipe, 0600), 0);
    int end = open(pipe, O_RDONLY | O_NONBLOCK);
    assert_int_equal(file_write(pipe, "told", 4, &err), OK);
    assert_int_equal(read(end, got, sizeof got), 4);
    assert_memory_equal(got, "told", 4);
    assert_int_equal(file_write(tmp, "x", 1, &err), OK);
    assert_int_equal(file_publish(tmp, pipe, &err), ERR_IO);
    assert_non_null(strstr(err.msg, pipe));
    struct stat there;
    assert_int_equal(stat(pipe, &there), 0);
    assert_true(S_ISFIFO(there.st_mode));
    close(end);
    unlink(pipe);
    unlink(tmp);
    assert_int_equal(rmdir(dir), 0);
    free(pipe);
    free(tmp);
    free(dir);
}

static void test_files(void **state) {
    (void)state;
    Err err = {OK, ""};
    char *dir = temp_dir(), *path = xasprintf("%s/a/b/file", dir), *sub = xasprintf("%s/a/b", dir), *text;
    size_t size;
    assert_int_equal(file_write(path, "x", 1, &err), ERR_IO);
    assert_non_null(strstr(err.msg, path));
    assert_int_equal(dir_make(sub, &err), OK);
    assert_int_equal(dir_make(sub, &err), OK);
    assert_int_equal(file_write(path, "old text", 8, &err), OK);
    assert_int_equal(file_read(path, 8, &text, &size, &err), OK);
    assert_int_equal(size, 8);
    assert_string_equal(text, "old text");
    free(text);
    assert_int_equal(file_read(path, 7, &text, &size, &err), ERR_FORMAT);
    assert_null(text);
    assert_int_equal(file_read(sub, 100, &text, &size, &err), ERR_IO); /* a folder */
    assert_int_equal(dir_make(path, &err), ERR_IO);                    /* a file in the way */

    /* No room: the old content stays and nothing is left behind. */
    struct rlimit old, tiny = {4, 4};
    getrlimit(RLIMIT_FSIZE, &old);
    tiny.rlim_max = old.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &tiny);
    Status s = file_write(path, "new and longer", 14, &err);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_int_equal(s, ERR_IO);
    assert_int_equal(file_read(path, 100, &text, &size, &err), OK);
    assert_string_equal(text, "old text");
    free(text);
    char *tmp = xasprintf("%s.tmp", path);
    assert_false(path_exists(tmp));
    free(tmp);
    unlink(path);
    rmdir(sub);
    free(sub);
    sub = xasprintf("%s/a", dir);
    rmdir(sub);
    assert_int_equal(rmdir(dir), 0);
    free(sub);
    free(path);
    free(dir);
}

/* Files and folders that are said to be written, and files that others wrote and file_publish names. */
static void test_names_outlive_a_power_failure(void **state) {
    (void)state;
    Err err = {OK, ""};
    char *dir = temp_dir(), *a = xasprintf("%s/a", dir), *b = xasprintf("%s/a/b", dir), *file = xasprintf("%s/a/b/file", dir),
         *other = xasprintf("%s/other", dir);
    watch_sync(a);
    watch_sync(b);
    assert_int_equal(dir_make(b, &err), OK);
    assert_int_equal(watch_lost(), 0);
    watch_sync(file);
    assert_int_equal(file_write(file, "x", 1, &err), OK);
    assert_int_equal(watch_lost(), 0);
    watch_sync(other);
    assert_int_equal(file_publish(file, other, &err), OK);
    assert_int_equal(watch_lost(), 0);
    remove_tree(dir);
    free(other);
    free(file);
    free(b);
    free(a);
    free(dir);
}

static void test_split_list(void **state) {
    (void)state;
    char text[] = "a,bc,,d", *parts[3];
    assert_int_equal(split_list(text, parts, 3), 3);
    assert_string_equal(parts[1], "bc");
    assert_string_equal(parts[2], "d");
    /* However many there are. */
    char many[400] = "a";
    for (int i = 0; i < 99; i++) strcat(many, ",b");
    int n;
    char **all = split_all(many, &n);
    assert_int_equal(n, 100);
    assert_string_equal(all[99], "b");
    free(all);
}

/* ---- flags ------------------------------------------------------------------------------------------------------- */

typedef struct {
    int64_t seq_len, memory, horizon;
    double lr;
    int verbose;
    const char *out, *schedule;
    StringList outcomes;
} Settings;

static const Settings DEFAULTS = {
    .seq_len = 512, .memory = 1 << 20, .horizon = 525600, .lr = 3e-4, .schedule = "cosine"};
enum { N_FLAGS = 8, POS_MAX = 2 };

static void make_flags(Flag *f, Settings *s) {
    const Flag all[N_FLAGS] = {
        {"--seq-len", FLAG_INT, &s->seq_len, 16, 8192, NULL, "tokens a row", 0},
        {"--lr", FLAG_FLOAT, &s->lr, 0, 1, NULL, "peak learning rate", 0},
        {"--verbose", FLAG_BOOL, &s->verbose, 0, 0, NULL, "say more", 0},
        {"--out", FLAG_STRING, &s->out, 0, 0, NULL, "folder to write", 0},
        {"--schedule", FLAG_ENUM, &s->schedule, 0, 0, "cosine|linear|constant", "of the learning rate", 0},
        {"--memory", FLAG_SIZE, &s->memory, 0, 0, NULL, "bytes", 0},
        {"--horizon", FLAG_DURATION, &s->horizon, 0, 0, NULL, "time ahead", 0},
        {"--outcome", FLAG_LIST, &s->outcomes, 0, 0, NULL, "NAME=PREFIX", 0},
    };
    memcpy(f, all, sizeof all);
}

typedef struct {
    Settings s;
    Flag flags[N_FLAGS];
    const char *pos[POS_MAX];
    int n_pos, help;
    Err err;
    char text[512];
} Parsed;

/* line: arguments separated by single spaces. */
static Status parse(Parsed *p, const char *line) {
    char *argv[32];
    int argc = 0;
    memset(p, 0, sizeof *p);
    p->s = DEFAULTS;
    make_flags(p->flags, &p->s);
    snprintf(p->text, sizeof p->text, "%s", line);
    for (char *save = NULL, *a = strtok_r(p->text, " ", &save); a; a = strtok_r(NULL, " ", &save)) argv[argc++] = a;
    return flags_parse(p->flags, N_FLAGS, argc, argv, p->pos, POS_MAX, &p->n_pos, &p->help, &p->err);
}

static void test_flags_values(void **state) {
    (void)state;
    Parsed p;
    assert_int_equal(
        parse(&p, "data --seq-len 128 --lr=1e-3 --verbose --out run --schedule linear --memory 512M --horizon 2y "
                  "--outcome a=X --outcome b=Y more"),
        OK);
    assert_int_equal(p.s.seq_len, 128);
    assert_true(p.s.lr == 1e-3);
    assert_int_equal(p.s.verbose, 1);
    assert_string_equal(p.s.out, "run");
    assert_string_equal(p.s.schedule, "linear");
    assert_int_equal(p.s.memory, 512 << 20);
    assert_int_equal(p.s.horizon, 2 * 525960);
    assert_int_equal(p.s.outcomes.n, 2);
    assert_string_equal(p.s.outcomes.item[1], "b=Y");
    assert_int_equal(p.n_pos, 2);
    assert_string_equal(p.pos[1], "more");
    char *json = flags_json(p.flags, N_FLAGS);
    assert_non_null(strstr(json, "\"seq-len\":128"));
    assert_non_null(strstr(json, "\"outcome\":[\"a=X\",\"b=Y\"]"));
    free(json);
    assert_int_equal(parse(&p, ""), OK);
    assert_int_equal(p.s.seq_len, 512);
    assert_int_equal(parse(&p, "--help"), OK);
    assert_int_equal(p.help, 1);
    assert_int_equal(parse(&p, "--verbose=no"), OK);
    assert_int_equal(p.s.verbose, 0);
}

static void test_flags_units(void **state) {
    (void)state;
    static const struct {
        const char *line;
        int64_t memory, horizon;
    } good[] = {{"--memory 4096", 4096, 525600},       {"--memory 1.5K", 1536, 525600},
                {"--memory 2GiB", 2147483648, 525600}, {"--horizon 90min", 1 << 20, 90},
                {"--horizon 12h", 1 << 20, 720},       {"--horizon 365d", 1 << 20, 525600},
                {"--horizon 2w", 1 << 20, 20160},      {"--memory 1t", 1099511627776, 525600}};
    Parsed p;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(parse(&p, good[i].line), OK);
        assert_int_equal(p.s.memory, good[i].memory);
        assert_int_equal(p.s.horizon, good[i].horizon);
    }
}

/* Each is refused as a usage error whose message has the named part, and leaves the default alone. */
static void test_flags_refused(void **state) {
    (void)state;
    static const struct {
        const char *line, *says;
    } bad[] = {
        {"--seq-leng 128", "did you mean --seq-len?"},
        {"--sequence-length-of-rows 1", "unknown flag --sequence-length-of-rows"},
        {"--vrebose", "did you mean --verbose?"},
        {"-x", "unknown flag -x"},
        {"--horizon 6m", "a duration such as 90min"}, /* months to some, minutes to others */
        {"--seq-len 12x", "--seq-len takes a whole number, not '12x'"},
        {"--seq-len 1.5", "--seq-len takes a whole number"},
        {"--seq-len 0x40", "--seq-len takes a whole number"},
        {"--seq-len=", "--seq-len takes a whole number"},
        {"--seq-len 99999999999999999999", "too large"},
        {"--seq-len -99999999999999999999", "too large"},
        {"--seq-len 8", "between 16 and 8192"},
        {"--seq-len 8193", "between 16 and 8192"},
        {"--seq-len 64 --seq-len 64", "--seq-len given twice"},
        {"--seq-len", "--seq-len needs a value"},
        {"--lr nan", "--lr takes a number"},
        {"--lr inf", "--lr takes a number"},
        {"--lr 1e999", "--lr takes a number"},
        {"--lr 1.5", "between 0 and 1"},
        {"--lr -1", "between 0 and 1"},
        {"--verbose=maybe", "yes or no"},
        {"--out=", "--out takes a value"},
        {"--schedule cos", "one of cosine|linear|constant"},
        {"--schedule cosine|linear", "one of"},
        {"--memory 12Q", "a size such as"},
        {"--memory M", "a size such as"},
        {"--memory 1e30", "too large"},
        {"--memory -1", "a size such as"},
        {"--horizon 3 fortnights", "a duration such as"},
        {"--horizon 5", "a duration such as"},
        {"--horizon nand", "a duration such as"},
        {"a b c", "unexpected argument 'c'"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Parsed p;
        assert_int_equal(parse(&p, bad[i].line), ERR_USAGE);
        assert_int_equal(p.err.code, ERR_USAGE);
        if (!strstr(p.err.msg, bad[i].says)) fail_msg("'%s' says: %s", bad[i].line, p.err.msg);
        assert_int_equal(p.s.memory, DEFAULTS.memory);
        assert_true(p.s.lr == DEFAULTS.lr);
    }
}

static void test_flags_list_full(void **state) {
    (void)state;
    StringList list = {0};
    Flag flag = {"--outcome", FLAG_LIST, &list, 0, 0, NULL, "", 0};
    char *argv[STRING_LIST_MAX + 1], item[] = "--outcome=x";
    int n_pos, help;
    Err err;
    for (int i = 0; i <= STRING_LIST_MAX; i++) argv[i] = item;
    assert_int_equal(flags_parse(&flag, 1, STRING_LIST_MAX, argv, NULL, 0, &n_pos, &help, &err), OK);
    flag.seen = list.n = 0;
    assert_int_equal(flags_parse(&flag, 1, STRING_LIST_MAX + 1, argv, NULL, 0, &n_pos, &help, &err), ERR_USAGE);
}

/* Help and banner are made from the same table. */
static void test_flags_print(void **state) {
    (void)state;
    Parsed p;
    parse(&p, "--seq-len 64");
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    flags_help(p.flags, N_FLAGS, "ehr-x [ARGUMENTS]", "does x", out);
    fclose(out);
    assert_int_equal(strncmp(text, PIPELINE_LINE, strlen(PIPELINE_LINE)), 0);
    for (int i = 0; i < N_FLAGS; i++) assert_non_null(strstr(text, p.flags[i].name));
    free(text);
    out = open_memstream(&text, &size);
    flags_print(p.flags, N_FLAGS, out);
    fclose(out);
    assert_non_null(strstr(text, "* seq-len"));
    assert_null(strstr(text, "* lr"));
    free(text);
}

static Status run_good(int argc, char **argv, Err *err) {
    (void)argv;
    return argc ? err_set(err, ERR_USAGE, "no arguments") : OK;
}
static Status run_bad(int argc, char **argv, Err *err) {
    (void)argc;
    (void)argv;
    return err_set(err, ERR_IO, "cannot");
}

static void test_command_main(void **state) {
    (void)state;
    const Command commands[] = {{"good", "works", run_good}, {"bad", "fails", run_bad}};
    static const struct {
        const char *argv[3];
        int argc, exit;
    } cases[] = {{{"p", "good", NULL}, 2, 0}, {{"p", "good", "x"}, 3, 2}, {{"p", "bad", NULL}, 2, 1},
                 {{"p", "goof", NULL}, 2, 2}, {{"p", NULL, NULL}, 1, 2},  {{"p", "--help", NULL}, 2, 0}};
    int out = dup(1), errors = dup(2); /* its messages are not this test's output */
    fflush(stdout);
    assert_non_null(freopen("/dev/null", "w", stdout));
    assert_non_null(freopen("/dev/null", "w", stderr));
    int got[6];
    for (int i = 0; i < 6; i++)
        got[i] = command_main(commands, 2, "p", "about", cases[i].argc, (char **)(uintptr_t)cases[i].argv);
    fflush(stdout);
    fflush(stderr);
    dup2(out, 1);
    dup2(errors, 2);
    close(out);
    close(errors);
    for (int i = 0; i < 6; i++) assert_int_equal(got[i], cases[i].exit);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_err),           cmocka_unit_test(test_alloc),
        cmocka_unit_test(test_what_is_no_plain_file), cmocka_unit_test(test_files),
        cmocka_unit_test(test_names_outlive_a_power_failure), cmocka_unit_test(test_split_list),
        cmocka_unit_test(test_flags_values),  cmocka_unit_test(test_flags_units),
        cmocka_unit_test(test_flags_refused), cmocka_unit_test(test_flags_list_full),
        cmocka_unit_test(test_flags_print),   cmocka_unit_test(test_command_main),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
