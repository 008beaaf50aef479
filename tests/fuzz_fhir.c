/* fuzz_fhir.c SECONDS [SEED] - mutated FHIR files never crash the cutter or the importer; pieces lie inside what was read,
 * every piece is accounted for, what follows a damaged line is still read, and what comes out is a readable events file. */
#include "data/intern.h"
#include "data/event.h"
#include "data/fhir_text.h"
#include "data/import.h"
#include "kernels/philox.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CAPACITY = 1 << 18, MAX_LINE = 1 << 16 };
static uint64_t counter, seed = 1;

static uint64_t draw(uint64_t below) {
    Philox4 r = philox4x32(seed, counter++, 0);
    return below ? ((uint64_t)r.v[0] << 32 | r.v[1]) % below : 0;
}

#define CODE(system, code) "{\"coding\":[{\"system\":\"" system "\",\"code\":\"" code "\",\"display\":\"x, y\"}],\"text\":\"z\"}"
#define P "\"subject\":{\"reference\":\"Patient/p\"}"
static const char *const base[] = {
    "{\"resourceType\":\"Patient\",\"id\":\"p\",\"gender\":\"male\",\"birthDate\":\"1950-06\",\"deceasedDateTime\":\"2020-01-01\",\"extension\":[{\"url\":"
    "\"http://x/us-core-race\",\"extension\":[{\"url\":\"ombCategory\",\"valueCoding\":{\"code\":\"2106-3\"}}]}]}",
    "{\"resourceType\":\"Encounter\",\"id\":\"e\",\"status\":\"finished\",\"class\":{\"code\":\"IMP\"},\"type\":[" CODE("http://snomed.info/sct", "1") "]," P
    ",\"period\":{\"start\":\"2019-01-01T10:00:00-05:00\",\"end\":\"2019-01-05T10:00:00-05:00\"},\"meta\":{\"lastUpdated\":\"2019-01-06T00:00:00.123Z\"}}",
    "{\"resourceType\":\"Observation\",\"id\":\"o\",\"status\":\"final\",\"category\":[{\"coding\":[{\"code\":\"laboratory\"}]}],\"code\":" CODE("http://loinc.org", "2345-7") "," P
    ",\"encounter\":{\"reference\":\"Encounter/e\"},\"effectiveDateTime\":\"2019-01-02T10:00:00Z\",\"issued\":\"2019-01-02T12:00:00Z\","
    "\"valueQuantity\":{\"value\":5.5,\"comparator\":\"<\",\"unit\":\"mmol/L\",\"code\":\"mmol/L\"}}",
    "{\"resourceType\":\"Observation\",\"id\":\"b\",\"status\":\"final\",\"code\":" CODE("http://loinc.org", "85354-9") "," P ",\"effectivePeriod\":{\"start\":\"2019\"},"
    "\"component\":[{\"code\":" CODE("http://loinc.org", "8480-6") ",\"valueQuantity\":{\"value\":120}},{\"code\":" CODE("http://loinc.org", "8462-4")
    ",\"valueCodeableConcept\":{\"text\":\"words\"}}]}",
    "{\"resourceType\":\"MedicationRequest\",\"id\":\"m\",\"status\":\"active\",\"intent\":\"order\",\"contained\":[{\"resourceType\":\"Medication\",\"id\":\"c\",\"code\":"
    CODE("urn:oid:2.16.840.1.113883.6.88", "1") "}],\"medicationReference\":{\"reference\":\"#c\"}," P ",\"authoredOn\":\"2019-01-03\"}",
    "{\"resourceType\":\"Condition\",\"id\":\"c\",\"verificationStatus\":{\"coding\":[{\"code\":\"refuted\"}]},\"code\":" CODE("http://snomed.info/sct", "2") "," P
    ",\"onsetAge\":{\"value\":3},\"recordedDate\":\"2019-01-03T00:00:00Z\"}",
    "{\"resourceType\":\"DiagnosticReport\",\"status\":\"final\",\"code\":" CODE("http://loinc.org", "1") "," P ",\"effectiveDateTime\":\"2019-01-03\",\"conclusionCode\":["
    CODE("http://snomed.info/sct", "3") "],\"result\":[{}]}",
    "{\"resourceType\":\"Medication\",\"id\":\"x\",\"code\":" CODE("http://www.nlm.nih.gov/research/umls/rxnorm", "9") "}",
    "{\"resourceType\":\"DocumentReference\",\"id\":\"d\",\"status\":\"current\",\"docStatus\":\"final\"," P ",\"date\":\"2019-01-03T10:00:00Z\","
    "\"context\":{\"encounter\":[{\"reference\":\"Encounter/e\"}]},\"content\":[{\"attachment\":{\"contentType\":\"text/plain\",\"data\":\"Y2Fm6SBhbmQgCWZldmVy\"}}]}",
    "{\"resourceType\":\"ImagingStudy\",\"id\":\"i\",\"status\":\"available\"," P ",\"started\":\"2019-01-03T10:00:00Z\",\"series\":[{\"modality\":{\"code\":\"CT\"},"
    "\"bodySite\":{\"system\":\"http://snomed.info/sct\",\"code\":\"5\"}}]}",
    "{\"resourceType\":\"Observation\",\"id\":\"v\",\"status\":\"final\",\"code\":" CODE("http://loinc.org", "69548-6") "," P ",\"effectiveDateTime\":\"2019-01-03T10:00:00Z\","
    "\"component\":[{\"code\":" CODE("http://loinc.org", "48018-6") ",\"valueCodeableConcept\":" CODE("http://www.genenames.org/geneId", "HGNC:1") "},"
    "{\"code\":" CODE("http://loinc.org", "48004-6") ",\"valueString\":\"NM_005228.5:c.2573T>G\"}]}",
    "{\"resourceType\":\"Claim\",\"id\":\"y\"}"};
enum { BASES = sizeof base / sizeof *base };

/* Lines, or a bundle of them. */
static size_t compose(char *text, int lines) {
    size_t n = 0;
    if (!lines) n += (size_t)sprintf(text, "{\"resourceType\":\"Bundle\",\"type\":\"transaction\",\"entry\":[");
    for (uint64_t k = 1 + draw(12), i = 0; i < k; i++) {
        const char *resource = base[i < 2 ? i : draw(BASES)];
        if (lines) n += (size_t)sprintf(text + n, "%s\n", resource);
        else n += (size_t)sprintf(text + n, "%s{\"fullUrl\":\"urn:uuid:%d\",\"resource\":%s}", i ? "," : "", (int)draw(3), resource);
    }
    if (!lines) n += (size_t)sprintf(text + n, "]}");
    return n;
}

static size_t mutate(char *text, size_t n) {
    static const char *const token[] = {"\"", "\\", "{", "}", "[", "]", ",", ":", "\n", "\\u0000", "\\ud800", "\xE9", "\xF0\x9F\x92\x8A", "1e999",
                                        "-1e-400", "99999999999999999999", "null", "true", "\"entry\":[", "\"resourceType\":\"Observation\"",
                                        "\"resourceType\":", "\"id\":\"p\"", "2019-02-30", "0000", "9999-12-31T23:59:59+14:00", "urn:uuid:",
                                        "\xEF\xBB\xBF", "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["};
    for (uint64_t k = draw(6); k > 0 && n; k--) {
        size_t at = (size_t)draw(n), length;
        const char *word = "";
        switch (draw(5)) {
        case 0: text[at] = (char)draw(256); break;
        case 1: /* cut a piece out */
            length = (size_t)draw(draw(10) ? 8 : 400);
            if (at + length > n) length = n - at;
            memmove(text + at, text + at + length, n - at - length);
            n -= length;
            break;
        case 2:
        case 3: /* put a word in */
            word = token[draw(sizeof token / sizeof *token)];
            length = strlen(word);
            if (n + length > CAPACITY) break;
            memmove(text + at + length, text + at, n - at);
            memcpy(text + at, word, length);
            n += length;
            break;
        default: /* a very long string, or the rest again */
            length = (size_t)draw(draw(20) ? 300 : 100000);
            if (n + length > CAPACITY) break;
            memmove(text + at + length, text + at, n - at);
            if (draw(2)) memset(text + at, 'x', length);
            n += length;
        }
    }
    return n;
}

static int fail(const char *what) {
    fprintf(stderr, "fuzz_fhir: %s (seed %llu, counter %llu)\n", what, (unsigned long long)seed, (unsigned long long)counter);
    return 1;
}

/* Pieces of a stream: those in lines are as many as with any other damage before the last line. */
static int try_text(const char *text, size_t n, int lines) {
    static const char last[] = "\n{\"resourceType\":\"Patient\",\"id\":\"last\"}\n";
    Err err = {0};
    Stream s;
    FhirText t;
    FhirPiece p = {0};
    int got = 0, bad = 0, found = 0;
    size_t whole = 0, size = n + (lines ? sizeof last - 1 : 0);
    char *exact = xmalloc(size + 1); /* so that reading past the end is seen */
    memcpy(exact, text, n);
    if (lines) memcpy(exact + n, last, sizeof last - 1);
    stream_memory(&s, "fuzz", exact, (int64_t)size);
    fhir_text_open(&t, &s, lines, MAX_LINE);
    Status status;
    while (!(status = fhir_text_next(&t, &p, &got, &err)) && got && !bad) {
        char sum = 0;
        for (size_t i = 0; i < p.size; i++) sum ^= p.text[i];
        (void)sum;
        whole += p.size;
        if (p.state == FHIR_PIECE_WHOLE && (p.text[0] != '{' || (p.text[p.size - 1] != '}' && p.text[p.size - 1] != ']')))
            bad = fail("a piece is no object");
        if (whole > size) bad = fail("pieces overlap");
        if (strlen(p.type) >= FHIR_TYPE_MAX) bad = fail("a type is not terminated");
        found = p.state == FHIR_PIECE_WHOLE && p.size == sizeof last - 3 && !strcmp(p.type, "Patient");
    }
    if (status && !err.msg[0]) bad = fail("an error without a message");
    if (!status && !bad && lines && !found) bad = fail("the line after a damaged one is lost");
    fhir_text_close(&t);
    stream_close(&s);
    free(exact);
    return bad;
}

static int try_events(const char *path) {
    Err err = {0};
    EventFile f;
    EventPatient p;
    if (event_file_open(&f, path, &err)) return fail(err.msg);
    int bad = 0;
    for (int64_t r = 0; r < f.n_patients && !bad; r++) {
        if (event_file_patient(&f, r, &p, &err)) bad = fail(err.msg);
        for (int64_t i = 0; i < p.n && !bad; i++)
            if (p.event[i].time != TIME_NONE && p.event[i].available < p.event[i].time) bad = fail("known before it happened");
    }
    for (int64_t i = 0; i < f.n_notes && !bad; i++) { /* texts are plain: UTF-8, no control characters but line ends */
        const char *text;
        size_t n;
        if (event_file_text(&f, i, &text, &n, &err)) bad = fail(err.msg);
        for (size_t k = 0; k < n && !bad;) {
            int size = (unsigned char)text[k] < 0x80 ? 1 : utf8_length((const unsigned char *)text + k);
            if (!size || k + (size_t)size > n || ((unsigned char)text[k] < ' ' && text[k] != '\n') || text[k] == 0x7f) bad = fail("a text that is not plain");
            k += (size_t)size;
        }
    }
    event_file_close(&f);
    return bad;
}

static int try_import(const char *folder, const char *text, size_t n, int lines) {
    char path[400], out[400];
    Err err = {0};
    snprintf(path, sizeof path, "%s/in.%s", folder, lines ? "ndjson" : "json");
    snprintf(out, sizeof out, "%s/out.h5", folder);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(text, 1, n, f) != n || fclose(f)) return fail("cannot write");
    ImportOptions o = {.path = path, .out = out, .memory = 4 << 20, .max_line = MAX_LINE, .max_errors = -1, .notes = (int)draw(2)};
    ImportReport r;
    int bad = 0;
    if (import_fhir(&o, &r, &err)) {
        if (!err.msg[0]) bad = fail("an error without a message");
    } else {
        for (int t = 0; t < r.n_tables; t++)
            if (r.table[t].read != r.table[t].emitted + import_report_dropped(&r.table[t])) bad = fail("resources are not accounted for");
        if (!bad) bad = try_events(out);
    }
    import_report_free(&r);
    return bad;
}

int main(int argc, char **argv) {
    double limit = argc > 1 ? atof(argv[1]) : 2, start = clock_s();
    if (argc > 2) seed = strtoull(argv[2], NULL, 10);
    const char *tmp = getenv("TMPDIR");
    char folder[256], command[300];
    snprintf(folder, sizeof folder, "%s/fuzz_fhir-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(folder)) return fail("cannot make a folder");
    char *text = xmalloc(CAPACITY);
    int bad = 0;
    int64_t runs = 0;
    for (; !bad && clock_s() - start < limit; runs++) {
        int lines = (int)draw(2);
        size_t n = compose(text, lines);
        for (uint64_t k = draw(3); k > 0; k--) n = mutate(text, n);
        bad = try_text(text, n, lines);
        if (!bad && runs % 8 == 0) bad = try_import(folder, text, n, lines);
    }
    free(text);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    if (system(command)) bad = 1;
    printf("fuzz_fhir: %lld inputs, seed %llu: %s\n", (long long)runs, (unsigned long long)seed, bad ? "failed" : "ok");
    return bad;
}
