/* utf8.h - walking over text that may be broken UTF-8. */
#ifndef AC_UTF8_H
#define AC_UTF8_H

#include <stdint.h>
#include <utf8proc.h>

/* The code point at *s, which is below end; moves *s behind it. A byte that begins no valid sequence is U+FFFD. */
static inline int32_t ac_utf8_next(const char **s, const char *end)
{
    utf8proc_int32_t c;
    utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)*s, end - *s, &c);

    *s += n > 0 ? n : 1;
    return n > 0 ? c : 0xfffd;
}

#endif
