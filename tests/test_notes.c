/* test_notes.c - free texts: kept with their events whatever the order and memory, turned into tokens that give the bytes
 * back, learned from the train split and from nobody's own words, masked where they still identify. */
#include "data/bpe.h"
#include "data/deidentify_notes.h"
#include "data/event_format.h"
#include "data/note_text.h"
#include "kernels/philox.h"
#include "tests/temp_files.h"
#include <fcntl.h>
#include <hdf5.h>
#include <jansson.h>
#include <math.h>

static char *folder;

static int folder_make(void **state) {
    (void)state;
    folder = temp_dir();
    return 0;
}

static int folder_remove(void **state) {
    (void)state;
    remove_tree(folder);
    free(folder);
    return 0;
}

static uint32_t draw(uint64_t i, uint64_t what) { return (uint32_t)(4294967295.0 * philox_uniform(philox4x32(11, i, what), 0)); }

/* ---- in events files ----------------------------------------------------------------------------------------------- */

enum { EVENTS = 3000, SUBJECTS = 60 };

/* Text of event i, some of 30 kB; 0: it has none. */
static size_t text_of(int i, char *out) {
    if (draw((uint64_t)i, 1) % 3) return 0;
    size_t n = 1 + draw((uint64_t)i, 2) % (i % 50 ? 90 : 30000);
    for (size_t k = 0; k < n; k++) out[k] = (char)(draw((uint64_t)(i % 700), 3 + k % 40) >> 24);
    return n;
}

static void event_of(EventWriter *w, int i, Event *e) {
    char code[32];
    snprintf(code, sizeof code, "NOTE//%u", draw((uint64_t)i, 50) % 3);
    *e = (Event){.subject = 1 + draw((uint64_t)i, 51) % SUBJECTS, .value = NAN};
    e->time = e->available = (1 + draw((uint64_t)i, 52) % 4) * US_PER_DAY;
    ok(event_writer_code(w, code, KIND_OTHER, NULL, NULL, &e->code, &err));
}

/* Every 7th event twice. */
static void events_write(const char *name, int64_t memory, int reversed, int64_t *n_duplicates) {
    static char text[1 << 15];
    EventWriter *w;
    int64_t P, E;
    char *path = join(folder, name);
    ok(event_writer_open(&w, path, memory, &err));
    event_writer_with_texts(w);
    for (int k = 0; k < EVENTS; k++) {
        int i = reversed ? EVENTS - 1 - k : k;
        Event e;
        event_of(w, i, &e);
        size_t n = text_of(i, text);
        for (int twice = 0; twice <= (i % 7 == 0); twice++) {
            if (n) ok(event_writer_add_text(w, &e, text, n, &err));
            else ok(event_writer_add(w, &e, &err));
        }
    }
    for (int s = 1; s <= SUBJECTS; s++) ok(event_writer_subject(w, s, 9 * US_PER_DAY, SPLIT_UNSET, &err));
    ok(event_writer_close(w, "test", "{}", &P, &E, n_duplicates, &err));
    free(path);
}

static uint64_t hash(const char *text, size_t n) {
    uint64_t h = 7;
    for (size_t i = 0; i < n; i++) h = philox_mix(h, (unsigned char)text[i]);
    return h;
}

/* Subject, day, code and text of each event that has one, without regard to order. */
static uint64_t pairs_written(int64_t *count) {
    static char text[1 << 15];
    uint64_t sum = 0, *seen = xcalloc(EVENTS, sizeof *seen);
    *count = 0;
    for (int i = 0; i < EVENTS; i++) {
        size_t n = text_of(i, text);
        if (!n) continue;
        uint64_t h = philox_mix(hash(text, n), philox_mix(draw((uint64_t)i, 51) % SUBJECTS,
                                                          draw((uint64_t)i, 50) % 3 * 10 + draw((uint64_t)i, 52) % 4));
        int again = 0;
        for (int64_t k = 0; k < *count; k++) again |= seen[k] == h;
        if (again) continue;
        seen[(*count)++] = h;
        sum += h;
    }
    free(seen);
    return sum;
}

static uint64_t pairs_read(const char *name, int backwards, int64_t *count) {
    char *path = join(folder, name);
    EventFile f;
    uint64_t sum = 0;
    *count = 0;
    ok(event_file_open(&f, path, &err));
    for (int64_t k = 0; k < f.n_patients; k++) {
        EventPatient p;
        int64_t notes = 0;
        ok(event_file_patient(&f, backwards ? f.n_patients - 1 - k : k, &p, &err));
        for (int64_t i = 0; i < p.n; i++) {
            const Event *e = &p.event[i];
            const char *text;
            size_t n;
            if (!e->note) continue;
            assert_int_equal(e->note, ++notes);
            ok(event_file_text(&f, p.first_note + e->note - 1, &text, &n, &err));
            sum += philox_mix(hash(text, n), philox_mix((uint64_t)p.subject - 1,
                                                        (uint64_t)(f.codes[e->code][6] - '0') * 10 +
                                                            (uint64_t)(e->time / US_PER_DAY - 1)));
            ++*count;
        }
        assert_int_equal(notes, p.n_notes);
    }
    assert_int_equal(*count, f.n_notes);
    event_file_close(&f);
    free(path);
    return sum;
}

static void test_texts_stay_with_events(void **state) {
    (void)state;
    int64_t duplicates[3], expected, forwards, backwards;
    size_t na, nb;
    events_write("a.h5", 64 << 20, 0, &duplicates[0]);
    events_write("b.h5", 1 << 20, 1, &duplicates[1]);
    char *a = slurp(folder, "a.h5", &na), *b = slurp(folder, "b.h5", &nb);
    assert_int_equal(na, nb);
    assert_memory_equal(a, b, na);
    assert_int_equal(duplicates[0], duplicates[1]);
    free(a);
    free(b);
    uint64_t written = pairs_written(&expected);
    assert_true(written == pairs_read("a.h5", 0, &forwards) && written == pairs_read("a.h5", 1, &backwards));
    assert_int_equal(forwards, expected);
    assert_int_equal(backwards, expected);
}

static void seal_again(const char *path) {
    struct stat st;
    unsigned char seal[EVENT_SEAL];
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0 && !fstat(fd, &st));
    int64_t size = (int64_t)st.st_size - EVENT_SEAL;
    ok(event_seal_compute(fd, path, size, 0, seal, NULL, &err));
    assert_int_equal(pwrite(fd, seal, sizeof seal, (off_t)size), sizeof seal);
    close(fd);
}

/* One number of a column becomes another under a right seal: an error, never a wrong read. */
static void test_hostile_columns(void **state) {
    (void)state;
    static const struct {
        const char *set;
        int64_t row;
        uint64_t value;
    } damage[] = {{"note_event", 0, 1u << 30},    {"note_event", 5, 0},  {"note_event", -1, UINT64_MAX},
                  {"note_offsets", 3, UINT64_MAX}, {"note_offsets", 3, 0}, {"note_offsets", -1, 17},
                  {"note_offsets", 0, 1u << 31}};
    int64_t duplicates;
    for (size_t d = 0; d < sizeof damage / sizeof *damage; d++) {
        char *path = join(folder, "hostile.h5");
        events_write("hostile.h5", 64 << 20, 0, &duplicates);
        hid_t h = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT), set = H5Dopen2(h, damage[d].set, H5P_DEFAULT);
        hid_t space = H5Dget_space(set);
        hsize_t n[1];
        H5Sget_simple_extent_dims(space, n, NULL);
        int64_t row = damage[d].row < 0 ? (int64_t)n[0] + damage[d].row : damage[d].row;
        off_t place = (off_t)(H5Dget_offset(set) + 8 * (haddr_t)row);
        H5Sclose(space);
        H5Dclose(set);
        H5Fclose(h);
        int fd = open(path, O_WRONLY);
        assert_int_equal(pwrite(fd, &damage[d].value, 8, place), 8);
        close(fd);
        seal_again(path);
        EventFile f;
        Status s = event_file_open(&f, path, &err);
        int opened = !s;
        for (int64_t k = 0; !s && k < f.n_patients; k++) {
            EventPatient p;
            s = event_file_patient(&f, k, &p, &err);
            for (int64_t i = 0; !s && i < p.n; i++) {
                const char *text;
                size_t size;
                if (p.event[i].note) s = event_file_text(&f, p.first_note + p.event[i].note - 1, &text, &size, &err);
            }
        }
        if (opened) event_file_close(&f);
        if (s != ERR_FORMAT) fail_msg("%s[%lld] = %llx was taken", damage[d].set, (long long)row, (unsigned long long)damage[d].value);
        free(path);
    }
}

/* ---- symbols ------------------------------------------------------------------------------------------------------- */

static const char *const sentences[] = {
    "Patient has never smoked. Patient denies chest pain, shortness of breath and fever 38.5 C.",
    "History of hypertension; smoking history 20 pack years.\n\n# Medications\n - metformin 500 mg",
    "The patient is a 45 year-old male with chest pain.  No fever.\tSmoker.",
    "Aspirin 81 mg daily; metoprolol 25 mg twice daily. Pain 7/10, na\xc3\xafve to opioids.",
};
enum { SENTENCES = 4 };

/* Byte pair encoding as it is defined: count all pairs of all words, merge the most frequent everywhere, begin again. */
typedef struct {
    uint32_t s[64];
    int n;
    int64_t count, patients, last;
    char text[BPE_WORD_MAX];
    size_t size;
} NaiveWord;

static int naive_merges(const char *const *text, const int *patient, int n_texts, int64_t enough, uint32_t (*merge)[2], int most) {
    static NaiveWord word[4000];
    static char made[BPE_BYTES + 600][BPE_WORD_MAX];
    static size_t size[BPE_BYTES + 600];
    int n_words = 0, n = 0;
    for (int t = 0; t < n_texts; t++)
        for (size_t at = 0, k, end = strlen(text[t]); at < end; at += k) {
            k = bpe_word(text[t] + at, end - at);
            int i = 0;
            while (i < n_words && (word[i].size != k || memcmp(word[i].text, text[t] + at, k))) i++;
            if (i == n_words) {
                word[n_words] = (NaiveWord){.n = (int)k, .size = k, .last = -1};
                memcpy(word[n_words].text, text[t] + at, k);
                for (size_t b = 0; b < k; b++) word[n_words].s[b] = (unsigned char)text[t][at + b];
                n_words++;
            }
            word[i].count++;
            if (word[i].last != patient[t]) word[i].patients++;
            word[i].last = patient[t];
        }
    for (int b = 0; b < BPE_BYTES; b++) made[b][0] = (char)b, size[b] = 1;
    uint8_t(*banned)[BPE_BYTES + 600] = xcalloc(BPE_BYTES + 600, sizeof *banned);
    while (n < most) {
        int64_t best = 1;
        uint32_t left = 0, right = 0;
        for (uint32_t a = 0; a < BPE_BYTES + (uint32_t)n; a++) {
            static int64_t with[BPE_BYTES + 600];
            memset(with, 0, sizeof with);
            for (int i = 0; i < n_words; i++)
                for (int k = 0; k + 1 < word[i].n && word[i].patients >= enough; k++)
                    if (word[i].s[k] == a) with[word[i].s[k + 1]] += word[i].count;
            for (uint32_t b = 0; b < BPE_BYTES + (uint32_t)n; b++)
                if (with[b] > best && !banned[a][b]) best = with[b], left = a, right = b;
        }
        if (best < 2) break;
        char bytes[2 * BPE_WORD_MAX];
        size_t k = size[left] + size[right];
        memcpy(bytes, made[left], size[left]);
        memcpy(bytes + size[left], made[right], size[right]);
        int twice = 0;
        for (int i = 0; i < BPE_BYTES + n; i++) twice |= size[i] == k && !memcmp(made[i], bytes, k);
        if (twice) {
            banned[left][right] = 1;
            continue;
        }
        uint32_t id = BPE_BYTES + (uint32_t)n;
        merge[n][0] = left;
        merge[n++][1] = right;
        memcpy(made[id], bytes, k);
        size[id] = k;
        for (int i = 0; i < n_words; i++) {
            int to = 0;
            for (int from = 0; from < word[i].n; from++, to++) {
                int here = from + 1 < word[i].n && word[i].s[from] == left && word[i].s[from + 1] == right;
                word[i].s[to] = here ? id : word[i].s[from];
                from += here;
            }
            word[i].n = to;
        }
    }
    free(banned);
    return n;
}

static void test_merges_are_the_definitions(void **state) {
    (void)state;
    enum { TEXTS = 40, MOST = 300 };
    static uint32_t naive[MOST][2], fitted[MOST][2];
    for (int64_t enough = 1; enough <= 3; enough++) {
        const char *text[TEXTS];
        char made[TEXTS][400];
        int patient[TEXTS];
        BpeFit *f = bpe_fit_open((uint32_t)enough);
        for (int t = 0; t < TEXTS; t++) {
            patient[t] = 1 + t / 4;
            snprintf(made[t], sizeof made[t], "%s word%c%c %s aaaa%.*s", sentences[draw((uint64_t)t, 1) % SENTENCES],
                     'a' + (int)(draw((uint64_t)t, 2) % 26), 'a' + (int)(draw((uint64_t)t, 3) % 3),
                     sentences[draw((uint64_t)t, 4) % SENTENCES], (int)(draw((uint64_t)t, 5) % 8), "aaaaaaaa");
            text[t] = made[t];
            bpe_fit_text(f, text[t], strlen(text[t]), (uint32_t)patient[t]);
        }
        int64_t rare, all;
        int n = bpe_fit_merges(f, fitted, MOST, &rare, &all), m = naive_merges(text, patient, TEXTS, enough, naive, MOST);
        assert_int_equal(n, m);
        assert_true(n > 50);
        for (int k = 0; k < n; k++)
            if (fitted[k][0] != naive[k][0] || fitted[k][1] != naive[k][1])
                fail_msg("merge %d of k = %lld: (%u, %u), by definition (%u, %u)", k, (long long)enough, fitted[k][0], fitted[k][1], naive[k][0], naive[k][1]);
        assert_true(enough == 1 ? rare == 0 : rare > 0 && rare < all);
        bpe_fit_close(f);
    }
}

static void test_symbols_give_bytes_back(void **state) {
    (void)state;
    enum { MOST = 500 };
    static uint32_t merge[MOST][2], symbol[5000];
    static char text[5000], back[5000], spelled[2 * BPE_WORD_MAX + 1], bytes[BPE_WORD_MAX + 1];
    int64_t rare, all;
    BpeFit *f = bpe_fit_open(1);
    for (int t = 0; t < 2 * SENTENCES; t++) bpe_fit_text(f, sentences[t % SENTENCES], strlen(sentences[t % SENTENCES]), 1);
    Bpe b;
    ok(bpe_open(&b, (const uint32_t(*)[2])merge, bpe_fit_merges(f, merge, MOST, &rare, &all), &err));
    bpe_fit_close(f);
    for (int i = 0; i < 3000; i++) {
        size_t n = draw((uint64_t)i, 1) % sizeof text, k = 0;
        int plain = i % 2, whole;
        for (size_t j = 0; j < n; j++) {
            uint32_t x = draw((uint64_t)i, 2 + j);
            text[j] = plain ? sentences[x % SENTENCES][(x >> 8) % 60] : (char)(x >> 24);
        }
        if (i < SENTENCES) memcpy(text, sentences[i], n = strlen(sentences[i]));
        int64_t m = bpe_encode(&b, text, n, symbol, 5000, &whole);
        assert_true(whole && (i >= SENTENCES || m < (int64_t)n / 2));
        for (int64_t s = 0; s < m; s++) {
            memcpy(back + k, b.symbol[symbol[s]].bytes, b.symbol[symbol[s]].size);
            k += b.symbol[symbol[s]].size;
        }
        assert_int_equal(k, n);
        assert_memory_equal(back, text, n);
        int64_t most = m / 2, cut = bpe_encode(&b, text, n, symbol, most, &whole);
        assert_true(cut <= most && (whole == (m <= most)));
    }
    for (int s = 0; s < b.n; s++) {
        bpe_spell(b.symbol[s].bytes, b.symbol[s].size, spelled);
        for (const char *c = spelled; *c; c++) assert_true((unsigned char)*c > ' ' && *c != 0x7f);
        assert_int_equal(bpe_unspell(spelled, bytes), b.symbol[s].size);
        assert_memory_equal(bytes, b.symbol[s].bytes, b.symbol[s].size);
    }
    bpe_close(&b);
}

/* Whatever one patient writes, however often, no symbol comes of it. */
static void test_nobodys_own_words(void **state) {
    (void)state;
    enum { MOST = 400 };
    static uint32_t merge[MOST][2];
    int64_t rare, all;
    BpeFit *f = bpe_fit_open(2);
    for (uint32_t patient = 1; patient <= 5; patient++)
        for (int k = 0; k < 50; k++) {
            bpe_fit_text(f, sentences[k % SENTENCES], strlen(sentences[k % SENTENCES]), patient);
            if (patient == 3) bpe_fit_text(f, " Qzyxw Qzyxw Qzyxw", 18, patient);
        }
    Bpe b;
    ok(bpe_open(&b, (const uint32_t(*)[2])merge, bpe_fit_merges(f, merge, MOST, &rare, &all), &err));
    assert_int_equal(rare, 150);
    int common = 0;
    for (int s = BPE_BYTES; s < b.n; s++) {
        assert_null(memchr(b.symbol[s].bytes, 'Q', b.symbol[s].size));
        common |= b.symbol[s].size == 8 && !memcmp(b.symbol[s].bytes, " patient", 8);
    }
    assert_true(common);
    bpe_close(&b);
    bpe_fit_close(f);
}

static void test_bad_merges(void **state) {
    (void)state;
    static const uint32_t later[1][2] = {{256, 1}}, twice[2][2] = {{1, 2}, {1, 2}};
    static uint32_t doubles[8][2];
    Bpe b;
    assert_int_equal(bpe_open(&b, later, 1, &err), ERR_FORMAT);
    assert_int_equal(bpe_open(&b, twice, 2, &err), ERR_FORMAT);
    for (uint32_t k = 0; k < 8; k++) doubles[k][0] = doubles[k][1] = k ? 255 + k : 'a';
    ok(bpe_open(&b, (const uint32_t(*)[2])doubles, 5, &err)); /* 32 bytes */
    bpe_close(&b);
    assert_int_equal(bpe_open(&b, (const uint32_t(*)[2])doubles, 6, &err), ERR_FORMAT);
}

/* ---- in vocabularies ----------------------------------------------------------------------------------------------- */

static const char head[] = "{\"format\": \"ehr.c vocabulary\", \"format_version\": 1, \"values\": \"fused\", \"static\": [], \"age_bin_years\": 1, \"gap_bins\": [";

/* The smallest vocabulary that tells notes: two merges, "he" and "the". */
static char *vocabulary_text_made(const char *notes, const char *extra) {
    json_t *gaps = json_array(), *tokens = json_array();
    const char *fixed[] = {"PAD", "RECORD_START", "RECORD_CONTINUES", "AGE//0"};
    for (int i = 0; i < 4; i++)
        json_array_append_new(tokens, json_pack("{s:i, s:s, s:s}", "id", i, "code", fixed[i], "kind", i < 3 ? "special" : "age"));
    for (int g = 0; g < GAP_TOKENS; g++) {
        json_t *q = json_array();
        for (int k = 0; k < GAP_QUANTILES; k++) json_array_append_new(q, json_integer(GAP_MINUTES[g]));
        json_array_append_new(gaps, json_pack("{s:i, s:s, s:o}", "id", 4 + g, "code", GAP_NAME[g], "quantiles_minutes", q));
        json_array_append_new(tokens, json_pack("{s:i, s:s, s:s}", "id", 4 + g, "code", GAP_NAME[g], "kind", "gap"));
    }
    json_array_append_new(tokens, json_pack("{s:i, s:s, s:s, s:s}", "id", 23, "code", "MEDS_DEATH", "kind", "event", "event_kind", "death"));
    static const char *const markers[] = {"NOTE_BEGIN", "NOTE_END", "NOTE_CUT"};
    for (int i = 0; i < 3 + 256 + 2; i++) {
        char code[32] = "SPELL//", byte = (char)(i - 3);
        if (i < 3) snprintf(code, sizeof code, "%s", markers[i]);
        else if (i < 3 + 256) bpe_spell(&byte, 1, code + 7);
        else snprintf(code, sizeof code, "SPELL//%s", i == 3 + 256 ? "he" : "the");
        json_array_append_new(tokens, json_pack("{s:i, s:s, s:s}", "id", 24 + i, "code", code, "kind", "text"));
    }
    if (*extra) json_array_append_new(tokens, json_loads(extra, 0, NULL));
    char *g = json_dumps(gaps, 0), *t = json_dumps(tokens, 0);
    char *all = xasprintf("%s%.*s], \"tokens\": %s%s%s}", head, (int)strlen(g) - 2, g + 1, t, *notes ? ", \"notes\": " : "", notes);
    free(g);
    free(t);
    json_decref(gaps);
    json_decref(tokens);
    return all;
}

static void test_vocabulary(void **state) {
    (void)state;
    static const struct {
        const char *notes, *extra, *says;
    } bad[] = {{"", "", "agree"},
               {"{\"begin\": 24, \"max_tokens\": 9, \"merges\": [[104, 101]]}", "", "agree"},
               {"{\"begin\": 24, \"max_tokens\": 9, \"merges\": [[116, 104], [256, 101]]}", "", "agree"},
               {"{\"begin\": 25, \"max_tokens\": 9, \"merges\": [[104, 101], [116, 256]]}", "", "too late"},
               {"{\"begin\": 24, \"max_tokens\": 0, \"merges\": []}", "", "max_tokens"},
               {"{\"begin\": -3, \"max_tokens\": 5, \"merges\": []}", "", "max_tokens"},
               {"{\"begin\": 24, \"max_tokens\": 5, \"merges\": [[104, 300], [116, 256]]}", "", "later"},
               {"{\"begin\": 24, \"max_tokens\": 5, \"merges\": [[104], [116, 256]]}", "", "pairs"},
               {"{\"begin\": 24, \"max_tokens\": 5, \"merges\": [[104, -1], [116, 256]]}", "", "pairs"},
               {"{\"begin\": 24, \"max_tokens\": 5, \"merges\": [[104, 101], [116, 256]]}",
                "{\"id\": 285, \"code\": \"SPELL//elsewhere\", \"kind\": \"text\"}", "agree"}};
    const char *good = "{\"begin\": 24, \"max_tokens\": 5, \"merges\": [[104, 101], [116, 256]]}";
    Vocabulary v;
    char *json = vocabulary_text_made(good, "");
    ok(vocabulary_parse(&v, json, strlen(json), "test", &err));
    free(json);
    int n, id = vocabulary_find(&v, "SPELL//the");
    assert_memory_equal(vocabulary_text(&v, id, &n), "the", 3);
    assert_int_equal(n, 3);
    assert_null(vocabulary_text(&v, v.text_begin + TEXT_CUT, &n));
    assert_null(vocabulary_text(&v, v.n, &n));
    /* A note as a model may write it: bytes of half a character, of a terminal's command, a note that begins in it. */
    NoteText note = {0};
    int first = v.text_begin + TEXT_FIRST;
    assert_int_equal(note_text_take(&note, &v, 5), NOTE_NONE);
    const int written[] = {v.text_begin, id, first + 0x1b, first + 0xe2, first + 0x82, first + 'x', first + 0xc3, first + 0xa4};
    for (size_t i = 0; i < sizeof written / sizeof *written; i++) assert_int_equal(note_text_take(&note, &v, written[i]), NOTE_GOES_ON);
    assert_int_equal(note_text_take(&note, &v, v.text_begin + TEXT_CUT), NOTE_WHOLE);
    assert_string_equal(note.text, "the???x\xc3\xa4 ...");
    assert_int_equal(note_text_take(&note, &v, first + 'y'), NOTE_GOES_ON);
    assert_true(note.open && note_text_take(&note, &v, v.death) == NOTE_NONE && note.open);
    note_text_close(&note, 0);
    assert_string_equal(note.text, "y");
    note_text_free(&note);
    vocabulary_free(&v);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        json = vocabulary_text_made(bad[i].notes, bad[i].extra);
        if (vocabulary_parse(&v, json, strlen(json), "test", &err) != ERR_FORMAT) fail_msg("vocabulary %zu was taken", i);
        if (!strstr(err.msg, bad[i].says)) fail_msg("vocabulary %zu: %s", i, err.msg);
        free(json);
    }
}

/* ---- masking ------------------------------------------------------------------------------------------------------- */

static void test_mask(void **state) {
    (void)state;
    static const struct {
        const char *text, *masked;
    } row[] = {{"seen on 2019-03-04 for cough", "seen on [DATE] for cough"},
               {"SSN 123-45-6789.", "SSN [SSN]."},
               {"call 617-555-0134 or mail a.b@example.org", "call [PHONE] or mail [EMAIL]"},
               {"a 92 year-old, son 45 years", "a [AGE] year-old, son 45 years"},
               {"101 y/o; 89 yo; 130/80 mmHg; 95 mg; 1920 years", "[AGE] y/o; 89 yo; 130/80 mmHg; 95 mg; 1920 years"},
               {"BP 120/80, HbA1c 6.1 %, 20 pack years", "BP 120/80, HbA1c 6.1 %, 20 pack years"},
               {"see http://who.example.org/a?b=c. From 10.4.77.12.", "see [URL]. From [IP]."},
               {"2019-03-04", "[DATE]"}};
    PhiPatterns *phi;
    ok(phi_patterns_open(&phi, &err));
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        size_t n = strlen(row[i].text);
        int64_t masked[PHI_COUNT + 1] = {0}, again[PHI_COUNT + 1] = {0};
        char *once = text_mask(phi, row[i].text, &n, masked);
        assert_string_equal(once, row[i].masked);
        assert_int_equal(n, strlen(once));
        char *twice = text_mask(phi, once, &n, again); /* a mask is no identifier */
        assert_string_equal(twice, once);
        free(once);
        free(twice);
    }
    phi_patterns_close(phi);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_texts_stay_with_events, folder_make, folder_remove),
        cmocka_unit_test_setup_teardown(test_hostile_columns, folder_make, folder_remove),
        cmocka_unit_test(test_merges_are_the_definitions),
        cmocka_unit_test(test_symbols_give_bytes_back),
        cmocka_unit_test(test_nobodys_own_words),
        cmocka_unit_test(test_bad_merges),
        cmocka_unit_test(test_vocabulary),
        cmocka_unit_test(test_mask),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
