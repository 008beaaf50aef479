/* fuzz_fhir.c [SECONDS [SEED]] - mutated FHIR files never crash the cutter or the importer; pieces lie inside what was
 * read, every piece is accounted for, what follows a damaged line is still read, and what comes out is a readable
 * events file.  Each input is read as lines and as one document. */
#include "data/event.h"
#include "data/fhir_text.h"
#include "tests/fuzz_import.h"

enum { CAPACITY = 1 << 18, MAX_LINE = 1 << 16 };

#define CODE(system, code)                                                                                             \
    "{\"coding\":[{\"system\":\"" system "\",\"code\":\"" code "\",\"display\":\"x, y\"}],\"text\":\"z\"}"
#define P "\"subject\":{\"reference\":\"Patient/p\"}"
static const char *const base[] = {
    "{\"resourceType\":\"Patient\",\"id\":\"p\",\"gender\":\"male\",\"birthDate\":\"1950-06\",\"deceasedDateTime\":"
    "\"2020-01-01\",\"extension\":[{\"url\":"
    "\"http://x/us-core-race\",\"extension\":[{\"url\":\"ombCategory\",\"valueCoding\":{\"code\":\"2106-3\"}}]}]}",
    "{\"resourceType\":\"Encounter\",\"id\":\"e\",\"status\":\"finished\",\"class\":{\"code\":\"IMP\"},\"type\":[" CODE(
        "http://snomed.info/sct", "1") "]," P
                                       ",\"period\":{\"start\":\"2019-01-01T10:00:00-05:00\",\"end\":\"2019-01-05T10:"
                                       "00:00-05:00\"},\"meta\":{\"lastUpdated\":\"2019-01-06T00:00:00.123Z\"}}",
    "{\"resourceType\":\"Observation\",\"id\":\"o\",\"status\":\"final\",\"category\":[{\"coding\":[{\"code\":"
    "\"laboratory\"}]}],\"code\":" CODE(
        "http://loinc.org",
        "2345-7") "," P ",\"encounter\":{\"reference\":\"Encounter/"
                        "e\"},\"effectiveDateTime\":\"2019-01-02T10:00:00Z\",\"issued\":\"2019-01-02T12:00:00Z\","
                  "\"valueQuantity\":{\"value\":5.5,\"comparator\":\"<\",\"unit\":\"mmol/L\",\"code\":\"mmol/L\"}}",
    "{\"resourceType\":\"Observation\",\"id\":\"b\",\"status\":\"final\",\"code\":" CODE(
        "http://loinc.org",
        "85354-9") "," P ",\"effectivePeriod\":{\"start\":\"2019\"},"
                   "\"component\":[{\"code\":" CODE(
                       "http://loinc.org",
                       "8480-6") ",\"valueQuantity\":{\"value\":120}},{\"code\":" CODE("http://loinc.org",
                                                                                       "8462-4") ",\"valueCodeableConce"
                                                                                                 "pt\":{\"text\":"
                                                                                                 "\"words\"}}]}",
    "{\"resourceType\":\"MedicationRequest\",\"id\":\"m\",\"status\":\"active\",\"intent\":\"order\",\"contained\":[{"
    "\"resourceType\":\"Medication\",\"id\":\"c\",\"code\":" CODE(
        "urn:oid:2.16.840.1.113883.6.88", "1") "}],\"medicationReference\":{\"reference\":\"#c\"}," P
                                               ",\"authoredOn\":\"2019-01-03\"}",
    "{\"resourceType\":\"Condition\",\"id\":\"c\",\"verificationStatus\":{\"coding\":[{\"code\":\"refuted\"}]},"
    "\"code\":" CODE("http://snomed.info/sct",
                     "2") "," P ",\"onsetAge\":{\"value\":3},\"recordedDate\":\"2019-01-03T00:00:00Z\"}",
    "{\"resourceType\":\"DiagnosticReport\",\"status\":\"final\",\"code\":" CODE(
        "http://loinc.org", "1") "," P
                                 ",\"effectiveDateTime\":\"2019-01-03\",\"conclusionCode\":[" CODE(
                                     "http://snomed.info/sct", "3") "],\"result\":[{}]}",
    "{\"resourceType\":\"Medication\",\"id\":\"x\",\"code\":" CODE("http://www.nlm.nih.gov/research/umls/rxnorm",
                                                                   "9") "}",
    "{\"resourceType\":\"DocumentReference\",\"id\":\"d\",\"status\":\"current\",\"docStatus\":\"final\"," P
    ",\"date\":\"2019-01-03T10:00:00Z\","
    "\"context\":{\"encounter\":[{\"reference\":\"Encounter/"
    "e\"}]},\"content\":[{\"attachment\":{\"contentType\":\"text/plain\",\"data\":\"Y2Fm6SBhbmQgCWZldmVy\"}}]}",
    "{\"resourceType\":\"ImagingStudy\",\"id\":\"i\",\"status\":\"available\"," P
    ",\"started\":\"2019-01-03T10:00:00Z\",\"series\":[{\"modality\":{\"code\":\"CT\"},"
    "\"bodySite\":{\"system\":\"http://snomed.info/sct\",\"code\":\"5\"}}]}",
    "{\"resourceType\":\"Observation\",\"id\":\"v\",\"status\":\"final\",\"code\":" CODE(
        "http://loinc.org",
        "69548-6") "," P ",\"effectiveDateTime\":\"2019-01-03T10:00:00Z\","
                   "\"component\":[{\"code\":" CODE("http://loinc.org", "48018-6") ",\"valueCodeableConcept\":" CODE(
                       "http://www.genenames.org/geneId",
                       "HGNC:1") "},"
                                 "{\"code\":" CODE("http://loinc.org",
                                                   "48004-6") ",\"valueString\":\"NM_005228.5:c.2573T>G\"}]}",
    "{\"resourceType\":\"Claim\",\"id\":\"y\"}"};
enum { BASES = sizeof base / sizeof *base };

static const char *const WORD[] = {"\"",
                                   "\\",
                                   "{",
                                   "}",
                                   "[",
                                   "]",
                                   ",",
                                   ":",
                                   "\n",
                                   "\\u0000",
                                   "\\ud800",
                                   "\xE9",
                                   "\xF0\x9F\x92\x8A",
                                   "1e999",
                                   "-1e-400",
                                   "99999999999999999999",
                                   "null",
                                   "true",
                                   "\"entry\":[",
                                   "\"resourceType\":\"Observation\"",
                                   "\"resourceType\":",
                                   "\"id\":\"p\"",
                                   "2019-02-30",
                                   "0000",
                                   "9999-12-31T23:59:59+14:00",
                                   "urn:uuid:",
                                   "\xEF\xBB\xBF",
                                   "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["};
enum { WORDS = sizeof WORD / sizeof *WORD };

/* Lines, or a bundle of them. */
static size_t compose(char *text, int lines) {
    size_t n = 0;
    if (!lines) n += (size_t)sprintf(text, "{\"resourceType\":\"Bundle\",\"type\":\"transaction\",\"entry\":[");
    for (uint64_t k = 1 + draw(12), i = 0; i < k; i++) {
        const char *resource = base[i < 2 ? i : draw(BASES)];
        if (lines) n += (size_t)sprintf(text + n, "%s\n", resource);
        else
            n += (size_t)sprintf(text + n, "%s{\"fullUrl\":\"urn:uuid:%d\",\"resource\":%s}", i ? "," : "",
                                 (int)draw(3), resource);
    }
    if (!lines) n += (size_t)sprintf(text + n, "]}");
    return n;
}

/* Pieces of a stream: in lines, whatever stands before the last one does not hide it. */
static void try_text(const char *text, size_t n, int lines) {
    static const char last[] = "\n{\"resourceType\":\"Patient\",\"id\":\"last\"}\n";
    Err err = {0};
    Stream s;
    FhirText t;
    FhirPiece p = {0};
    int got = 0, found = 0;
    size_t whole = 0, size = n + (lines ? sizeof last - 1 : 0);
    char *exact = xmalloc(size); /* so that reading past the end is seen */
    memcpy(exact, text, n);
    if (lines) memcpy(exact + n, last, sizeof last - 1);
    stream_memory(&s, "fuzz", exact, (int64_t)size);
    fhir_text_open(&t, &s, lines, MAX_LINE);
    Status status;
    while (!(status = fhir_text_next(&t, &p, &got, &err)) && got) {
        volatile char sum = 0;
        for (size_t i = 0; i < p.size; i++) sum = (char)(sum ^ p.text[i]);
        whole += p.size;
        if (p.state == FHIR_PIECE_WHOLE &&
            (p.text[0] != '{' || (p.text[p.size - 1] != '}' && p.text[p.size - 1] != ']')))
            fuzz_fail("a piece is no object");
        if (whole > size) fuzz_fail("pieces overlap");
        if (strlen(p.type) >= FHIR_TYPE_MAX) fuzz_fail("a type is not terminated");
        found = p.state == FHIR_PIECE_WHOLE && p.size == sizeof last - 3 && !strcmp(p.type, "Patient");
    }
    REQUIRE(!status || err.msg[0]);
    if (!status && lines && !found) fuzz_fail("the line after a damaged one is lost");
    fhir_text_close(&t);
    stream_close(&s);
    free(exact);
}

static int import(const char *name, const char *text, size_t n, int notes) {
    char *path = xasprintf("%s/%s", fuzz_folder(), name);
    fuzz_put(name, text, n);
    const int taken = import_try(import_fhir, (ImportOptions){.path = path, .notes = notes});
    fuzz_remove(name);
    free(path);
    return taken;
}

/* An import takes 20 times as long as cutting: what is kept is always imported. */
static int try(const char *text, size_t n) {
    const int notes = (int)draw(2), which = (int)draw(16);
    int taken = 0;
    for (int lines = 0; lines < 2; lines++) {
        try_text(text, n, lines);
        if (fuzz_now.kept || which == lines) taken |= import(lines ? "in.ndjson" : "in.json", text, n, notes);
    }
    return taken;
}

static void begin(void) {
    char *text = xmalloc(CAPACITY);
    for (int i = 0; i < 2; i++) fuzz_keep(text, compose(text, i));
    free(text);
}

static size_t make(char *text) {
    size_t n = draw(8) ? compose(text, (int)draw(2)) : fuzz_take(text);
    for (uint64_t k = draw(3); k > 0; k--) n = text_mutate(text, n, CAPACITY, WORD, WORDS);
    return n;
}

static const Fuzzer FUZZER = {.name = "fhir", .max = CAPACITY, .open = begin, .make = make, .try = try};
