/* serve_page.h - the page at /: infer/serve_page.html as it was when this was built, inside the binary.  It loads nothing
 * from elsewhere and speaks to the server through the same endpoints, with the same keys, as every other client. */
#ifndef EHR_INFER_SERVE_PAGE_H
#define EHR_INFER_SERVE_PAGE_H
#include <stddef.h>

/* A copy of the page (free() it); *size without the NUL behind it. */
char *serve_page_text(size_t *size);
/* Its Content-Security-Policy: its own script and style by their SHA-256, connections to this server, nothing else;
 * free() it. */
char *serve_page_policy(void);

#endif
