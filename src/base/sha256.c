/* sha256.c - SHA-256 as in FIPS 180-4, sections 4.1.2, 4.2.2, 5.1.1 and 6.2. */
#include "base/sha256.h"

#include <string.h>

static uint32_t rotr(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

/* One round. The eight working variables move by one place in each; here their names move instead (`i` is the
 * standard's h), three times as fast as moving values. */
#define ROUND(a, b, c, d, e, f, g, i, kw)                                                                              \
    do {                                                                                                               \
        uint32_t t1 = i + (rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25)) + ((e & f) ^ (~e & g)) + (kw);                      \
        d += t1;                                                                                                       \
        i = t1 + (rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));                             \
    } while (0)

/* Hash computation of one 64-byte block (section 6.2.2). */
static void compress(uint32_t h[8], const uint8_t *p)
{
    static const uint32_t k[64] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
    uint32_t w[64], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4], f = h[5], g = h[6], i = h[7];

    for (int t = 0; t < 16; t++, p += 4)
        w[t] = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
    for (int t = 16; t < 64; t++) {
        uint32_t s0 = rotr(w[t - 15], 7) ^ rotr(w[t - 15], 18) ^ w[t - 15] >> 3;
        uint32_t s1 = rotr(w[t - 2], 17) ^ rotr(w[t - 2], 19) ^ w[t - 2] >> 10;
        w[t] = w[t - 16] + s0 + w[t - 7] + s1;
    }
    for (int t = 0; t < 64; t += 8) {
        ROUND(a, b, c, d, e, f, g, i, k[t] + w[t]);
        ROUND(i, a, b, c, d, e, f, g, k[t + 1] + w[t + 1]);
        ROUND(g, i, a, b, c, d, e, f, k[t + 2] + w[t + 2]);
        ROUND(f, g, i, a, b, c, d, e, k[t + 3] + w[t + 3]);
        ROUND(e, f, g, i, a, b, c, d, k[t + 4] + w[t + 4]);
        ROUND(d, e, f, g, i, a, b, c, k[t + 5] + w[t + 5]);
        ROUND(c, d, e, f, g, i, a, b, k[t + 6] + w[t + 6]);
        ROUND(b, c, d, e, f, g, i, a, k[t + 7] + w[t + 7]);
    }
    h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e, h[5] += f, h[6] += g, h[7] += i;
}

void ac_sha256_init(ac_sha256 *s)
{
    *s = (ac_sha256){
        .h = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19}};
}

void ac_sha256_update(ac_sha256 *s, const void *data, size_t n)
{
    const uint8_t *p = data;
    size_t have = s->n % 64;

    s->n += n;
    if (have && have + n >= 64) {
        memcpy(s->block + have, p, 64 - have);
        compress(s->h, s->block);
        p += 64 - have;
        n -= 64 - have;
        have = 0;
    }
    for (; n >= 64; p += 64, n -= 64)
        compress(s->h, p);
    if (n)
        memcpy(s->block + have, p, n);
}

void ac_sha256_final(ac_sha256 *s, uint8_t digest[32])
{
    static const uint8_t pad[64] = {0x80};
    uint64_t bits = s->n * 8;
    uint8_t length[8];

    ac_sha256_update(s, pad, 1 + (119 - s->n % 64) % 64); /* up to 8 bytes before the end of a block */
    for (int i = 0; i < 8; i++)
        length[i] = (uint8_t)(bits >> (56 - 8 * i));
    ac_sha256_update(s, length, sizeof length);
    for (int i = 0; i < 32; i++)
        digest[i] = (uint8_t)(s->h[i / 4] >> (24 - 8 * (i % 4)));
}

void ac_sha256_text(const uint8_t digest[32], char hex[65])
{
    for (int i = 0; i < 32; i++) {
        hex[2 * i] = "0123456789abcdef"[digest[i] >> 4];
        hex[2 * i + 1] = "0123456789abcdef"[digest[i] & 15];
    }
    hex[64] = '\0';
}

void ac_sha256_hex(const void *data, size_t n, char hex[65])
{
    ac_sha256 s;
    uint8_t digest[32];

    ac_sha256_init(&s);
    ac_sha256_update(&s, data, n);
    ac_sha256_final(&s, digest);
    ac_sha256_text(digest, hex);
}
