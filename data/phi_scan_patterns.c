/* phi_scan_patterns.c - see phi_scan_patterns.h.
 *
 * A pattern must stand alone: digits inside a longer word or number are a code or a checksum.  What remains ambiguous
 * (a lone run of digits is a SNOMED code or a record number) is left to the names of columns. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "data/phi_scan_patterns.h"
#include "data/intern.h"
#include <ctype.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_LETTERS_MIN = 3, PATTERNS_MAX = 16 };

static const char *const kind_names[PHI_COUNT] = {"name", "geography", "date", "phone", "email",
                                                  "ssn",  "number",    "url",  "ip"};
const char *phi_kind_name(int kind) { return kind >= 0 && kind < PHI_COUNT ? kind_names[kind] : "unknown"; }

#define MONTH                                                                                                          \
    "(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sep(?:t(?:ember)?)?|"             \
    "Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)"
/* Addresses of code systems and formats, which say nothing of a person. */
#define PUBLIC_URL                                                                                                     \
    "(?!(?:www\\.)?(?:hl7\\.org|loinc\\.org|snomed\\.info|unitsofmeasure\\.org|terminology\\.hl7\\.org|w3\\.org|"      \
    "nucc\\.org|ama-assn\\.org|nlm\\.nih\\.gov|www\\.nlm\\.nih\\.gov|dicom\\.nema\\.org|standardhealthrecord\\.org|"   \
    "synthetichealth\\.github\\.io)\\b)"

static const struct {
    int kind;
    const char *pattern;
} pattern_table[] = {
    {PHI_SSN, "(?<![\\w.-])(?!000|666)\\d{3}-(?!00)\\d{2}-(?!0000)\\d{4}(?![\\w-])"},
    {PHI_PHONE, "(?<![\\w.-])(?:\\+?\\d{1,3}[ .-])?(?:\\([2-9]\\d{2}\\) ?|[2-9]\\d{2}[ .-])\\d{3}[ .-]\\d{4}(?![\\w-])"},
    {PHI_PHONE, "(?<![\\w.])\\+\\d{2,3}[ -]?\\d{2,4}(?:[ -]?\\d{2,4}){2,3}(?![\\w-])"},
    {PHI_EMAIL, "(?<![\\w.+-])[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\\.[A-Za-z0-9-]{1,63})*\\.[A-Za-z]{2,24}\\b"},
    {PHI_URL, "\\b(?i:https?|ftp)://" PUBLIC_URL "[^\\s\"'<>]{3}"},
    {PHI_URL, "(?<![\\w./@])www\\." PUBLIC_URL "[A-Za-z0-9-]{2,}\\.[A-Za-z]{2}"},
    {PHI_IP, "(?<![\\w.])(?:(?:25[0-5]|2[0-4]\\d|1?\\d?\\d)\\.){3}(?:25[0-5]|2[0-4]\\d|1?\\d?\\d)(?!\\.?\\w)"},
    {PHI_IP, "(?<![\\w:])(?:[0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]{1,4}(?![\\w:])"},
    {PHI_DATE, "(?<![\\w.-])(?<!time:)(?<!signed_on\":\")(?<!signed_on\": "
               "\")(?:1[89]|20)\\d{2}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\\d|3[01])(?=$|[^\\w-]|T\\d)"},
    {PHI_DATE, "(?<![\\w./])(?:0?[1-9]|[12]\\d|3[01])[/.](?:0?[1-9]|[12]\\d|3[01])[/.](?:1[89]|20)\\d{2}(?![\\w/])"},
    {PHI_DATE, "\\b(?:\\d{1,2}(?:st|nd|rd|th)? (?i:" MONTH ")\\.?,? (?:1[89]|20)\\d{2}|(?i:" MONTH
               ")\\.? \\d{1,2}(?:st|nd|rd|th)?,? (?:1[89]|20)\\d{2})\\b"},
    {PHI_NUMBER, "(?i)\\b(?:mrn|medical record(?: (?:no|number))?|patient (?:id|no|number)|account (?:no|number)|"
                 "acct|member id|policy (?:no|number))\\b[ .:#=]{1,3}[A-Z]{0,3}\\d{4,}"},
    {PHI_NUMBER, "(?<![\\w-])[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}(?![\\w-])"},
    /* Driving licences and passports. */
    {PHI_NUMBER, "(?<![\\w/.=-])[A-Z]{1,2}\\d{8,9}[A-Z]?(?![\\w-])"},
    /* Devices (UDI) and DICOM instances. */
    {PHI_NUMBER, "\\(01\\)\\d{14}(?:\\(|\\b)"},
    {PHI_NUMBER, "(?<![\\w:.])1\\.[23](?:\\.\\d{1,39}){5,}(?![\\w.])"},
};
enum { PATTERNS = sizeof pattern_table / sizeof *pattern_table };

struct PhiPatterns {
    pcre2_code *code[PATTERNS];
    pcre2_match_data *match;
    Intern names;
};

Status phi_patterns_open(PhiPatterns **out, Err *err) {
    PhiPatterns *p = *out = xcalloc(1, sizeof *p);
    intern_init(&p->names);
    p->match = pcre2_match_data_create(1, NULL);
    REQUIRE(p->match != NULL);
    for (int i = 0; i < PATTERNS; i++) {
        int why;
        size_t at;
        p->code[i] = pcre2_compile((PCRE2_SPTR)pattern_table[i].pattern, PCRE2_ZERO_TERMINATED, 0, &why, &at, NULL);
        if (!p->code[i]) {
            phi_patterns_close(p);
            *out = NULL;
            return err_set(err, ERR_FORMAT, "pattern %d of identifiers does not compile at %zu (error %d)", i, at, why);
        }
        pcre2_jit_compile(p->code[i], PCRE2_JIT_COMPLETE); /* without it the interpreter does the same, slower */
    }
    return OK;
}

void phi_patterns_close(PhiPatterns *p) {
    if (!p) return;
    for (int i = 0; i < PATTERNS; i++) pcre2_code_free(p->code[i]);
    pcre2_match_data_free(p->match);
    intern_free(&p->names);
    free(p);
}

/* ---- names ------------------------------------------------------------------------------------------------------- */

static int in_word(unsigned char c) { return isalnum(c) || c >= 0x80 || c == '\''; }

/* The word at text[*at...]; 0 at the end. */
static size_t next_word(const char *text, size_t n, size_t *at) {
    while (*at < n && !in_word((unsigned char)text[*at])) ++*at;
    size_t end = *at;
    while (end < n && in_word((unsigned char)text[end])) end++;
    return end - *at;
}

static int word_copy(char out[64], const char *text, size_t n) {
    int letters = 0;
    if (n >= 64) return 0;
    for (size_t i = 0; i < n; i++) letters += isalpha((unsigned char)text[i]) || (unsigned char)text[i] >= 0x80;
    memcpy(out, text, n);
    out[n] = 0;
    return letters >= NAME_LETTERS_MIN;
}

void phi_names_add(PhiPatterns *p, const char *name) {
    char word[64];
    for (size_t at = 0, n, size = strlen(name); (n = next_word(name, size, &at)); at += n)
        if (word_copy(word, name + at, n)) intern_add(&p->names, word);
}

int64_t phi_names_count(const PhiPatterns *p) { return p->names.n; }

/* ---- searching --------------------------------------------------------------------------------------------------- */

int64_t phi_find(const PhiPatterns *p, const char *text, size_t n, PhiHit *hit, int max) {
    int64_t found = 0;
    for (int i = 0; i < PATTERNS; i++) {
        const PCRE2_SIZE *at = pcre2_get_ovector_pointer(p->match);
        for (size_t from = 0; from < n && pcre2_match(p->code[i], (PCRE2_SPTR)text, n, from, 0, p->match, NULL) >= 0;
             found++) {
            if (found < max) hit[found] = (PhiHit){pattern_table[i].kind, at[0], at[1] - at[0]};
            from = at[1] > from ? at[1] : from + 1;
        }
    }
    char word[64];
    for (size_t at = 0, w; p->names.n && (w = next_word(text, n, &at)); at += w) {
        if (!word_copy(word, text + at, w) || intern_find(&p->names, word) == INTERN_NONE) continue;
        if (found < max) hit[found] = (PhiHit){PHI_NAME, at, w};
        found++;
    }
    return found;
}

/* ---- columns ----------------------------------------------------------------------------------------------------- */

/* Names of columns and keys in lower case, without _ and -. */
static const struct {
    int kind;
    const char *names; /* " a b c " */
} column_table[] = {
    {PHI_NAME, " name names first last middle maiden prefix suffix firstname lastname middlename maidenname givenname "
               "familyname surname given family fullname patientname providername mothersmaidenname nickname "},
    {PHI_GEOGRAPHY, " address address1 address2 street streetaddress line city town county zip zip3 zip5 zipcode "
                    "postalcode postcode lat latitude lon lng longitude fips birthplace district location1 location2 "},
    {PHI_DATE, " birthdate deathdate dateofbirth dob dod birthdatetime deceaseddatetime dateofdeath "},
    {PHI_PHONE, " phone telephone fax mobile phonenumber phonehome phonework telecom "},
    {PHI_EMAIL, " email emailaddress mail "},
    {PHI_SSN, " ssn socialsecuritynumber nationalid "},
    {PHI_NUMBER, " drivers driverslicense driverlicense passport mrn medicalrecordnumber memberid policynumber "
                 "accountnumber licensenumber platenumber vin udi uniquedeviceid productionid lotnumber serialnumber "
                 "deviceserial npi dea personsourcevalue beneficiaryid subscriberid healthplanid "},
    {PHI_URL, " url website homepage photo "},
    {PHI_IP, " ip ipaddress macaddress "},
};
static const char person_names[] = " first last middle maiden firstname lastname middlename maidenname givenname "
                                   "familyname surname given family fullname patientname mothersmaidenname ";

static int column_in(const char *list, const char *name) {
    char key[72];
    size_t n = 0;
    key[n++] = ' ';
    for (; *name && n < sizeof key - 2; name++)
        if (isalnum((unsigned char)*name)) key[n++] = (char)tolower((unsigned char)*name);
    if (*name || n == 1) return 0;
    key[n++] = ' ';
    key[n] = 0;
    return strstr(list, key) != NULL;
}

int phi_column_kind(const char *name) {
    for (size_t i = 0; i < sizeof column_table / sizeof *column_table; i++)
        if (column_in(column_table[i].names, name)) return column_table[i].kind;
    return -1;
}

int phi_column_is_name(const char *name) { return column_in(person_names, name); }
