/* bpe.h - byte pair encoding of free text (Sennrich, Haddow and Birch 2016, over bytes): any bytes have tokens, and the
 * tokens of a text give its bytes back.
 *
 * Symbol s < 256 is a byte, 256 + k what merge k makes of two earlier symbols.  A text is cut into words first: a run
 * of letters (or of bytes from 0x80 on), of up to three digits, of white space or of other signs, with the blank before
 * it unless it is white space; at most BPE_WORD_MAX bytes.  No symbol spans two words. */
#ifndef EHR_DATA_BPE_H
#define EHR_DATA_BPE_H
#include "model/base.h"

enum { BPE_BYTES = 256, BPE_WORD_MAX = 32, BPE_MERGES_MAX = 65536 };

typedef struct {
    int n;                /* symbols: 256 + merges */
    uint32_t (*merge)[2]; /* (n - 256) */
    struct BpeSymbol {
        uint8_t size;
        char bytes[BPE_WORD_MAX];
    } * symbol;     /* (n) */
    uint32_t *slot; /* hash of pairs: symbol, 0 = free */
    uint32_t n_slots;
} Bpe;

/* Refuses merges of symbols that are not there yet, two of the same pair, and symbols longer than a word. */
Status bpe_open(Bpe *b, const uint32_t (*merge)[2], int n_merges, Err *err);
void bpe_close(Bpe *b);
/* Bytes of the first word of a text of n > 0 bytes. */
size_t bpe_word(const char *text, size_t n);
/* Symbols of the text -> out (max); *whole: all of it.  Returns how many.  Words that do not fit are left out. */
int64_t bpe_encode(const Bpe *b, const char *text, size_t n, uint32_t *out, int64_t max, int *whole);
/* A symbol as printable text, a byte one letter: printable ASCII as it is, others as GPT-2 writes them; out
 * (2 BPE_WORD_MAX + 1). */
void bpe_spell(const char *bytes, size_t n, char *out);
/* And back: bytes of a spelling -> out (strlen), -1: it is none. */
int bpe_unspell(const char *spelling, char *out);

/* ---- fitting: words are counted text by text, then merges are chosen --------------------------------------------- */
typedef struct BpeFit BpeFit;
/* enough: only words that so many patients' texts have are learned from: what is one person's stays in bytes. */
BpeFit *bpe_fit_open(uint32_t enough);
void bpe_fit_close(BpeFit *f);
/* Texts of one patient come together; patients are numbered from 1. */
void bpe_fit_text(BpeFit *f, const char *text, size_t n, uint32_t patient);
/* The most frequent pair again and again, ties by the smaller symbols -> merge (n_merges); returns how many there were.
 * *rare: occurrences of words that too few patients have, *all: of all words. */
int bpe_fit_merges(BpeFit *f, uint32_t (*merge)[2], int n_merges, int64_t *rare, int64_t *all);

#endif
