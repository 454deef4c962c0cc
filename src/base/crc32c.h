/* crc32c.h - CRC-32C (Castagnoli; RFC 3720, appendix B.4). */
#ifndef AC_CRC32C_H
#define AC_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* The checksum of some bytes followed by the n at `data`; `crc` is that of the former, 0 when there are none. */
uint32_t ac_crc32c(uint32_t crc, const void *data, size_t n);

#endif
