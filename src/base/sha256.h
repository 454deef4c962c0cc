/* sha256.h - SHA-256 (FIPS 180-4), streaming. */
#ifndef AC_SHA256_H
#define AC_SHA256_H

#include <stddef.h>
#include <stdint.h>

typedef struct ac_sha256 {
    uint32_t h[8];
    uint64_t n;        /* bytes seen so far */
    uint8_t block[64]; /* the first n % 64 are waiting */
} ac_sha256;

void ac_sha256_init(ac_sha256 *s);
void ac_sha256_update(ac_sha256 *s, const void *data, size_t n);
void ac_sha256_final(ac_sha256 *s, uint8_t digest[32]);
/* Of n bytes in one call: 64 lower-case hex digits and NUL. */
void ac_sha256_hex(const void *data, size_t n, char hex[65]);
/* Digest to 64 lower-case hex digits and NUL. */
void ac_sha256_text(const uint8_t digest[32], char hex[65]);

#endif
