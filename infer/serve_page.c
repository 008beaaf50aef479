/* serve_page.c - see serve_page.h.  The assembler reads the file, so that the page stays a file that a browser can
 * open. */
#include "infer/serve_page.h"
#include "model/base.h"
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

__asm__(".section .rodata\n"
        "serve_page_begin: .incbin \"infer/serve_page.html\"\n"
        "serve_page_end: .byte 0\n"
        ".previous\n");
extern const char page_begin[] __asm__("serve_page_begin");
extern const char page_end[] __asm__("serve_page_end");

char *serve_page_text(size_t *size) {
    *size = (size_t)(page_end - page_begin);
    char *text = xmalloc(*size + 1);
    memcpy(text, page_begin, *size + 1);
    return text;
}

/* 'sha256-...' of what stands between the first <tag> and its end. */
static char *source_hash(const char *open, const char *close) {
    const char *from = strstr(page_begin, open), *to = from ? strstr(from, close) : NULL;
    unsigned char hash[crypto_hash_sha256_BYTES];
    char text[64];
    REQUIRE(to);
    from += strlen(open);
    crypto_hash_sha256(hash, (const unsigned char *)from, (unsigned long long)(to - from));
    sodium_bin2base64(text, sizeof text, hash, sizeof hash, sodium_base64_VARIANT_ORIGINAL);
    return xasprintf("'sha256-%s'", text);
}

char *serve_page_policy(void) {
    char *script = source_hash("<script>", "</script>"), *style = source_hash("<style>", "</style>");
    char *policy = xasprintf("default-src 'none'; script-src %s; style-src %s; connect-src 'self'; base-uri 'none'; "
                             "form-action 'none'; frame-ancestors 'none'",
                             script, style);
    free(script);
    free(style);
    return policy;
}
