/* half.h - storage types and their conversion to and from float. */
#ifndef AC_HALF_H
#define AC_HALF_H

#include <stddef.h>
#include <stdint.h>

/* Element types of tensors. Arithmetic is always f32; f16 and bf16 are storage. */
typedef enum ac_type { AC_F32, AC_F16, AC_BF16, AC_I32 } ac_type;

size_t ac_type_size(ac_type t);
const char *ac_type_name(ac_type t); /* "f32" "f16" "bf16" "i32" */

float ac_half_to_float(uint16_t h);
uint16_t ac_float_to_half(float f); /* nearest even; overflow to infinity */
float ac_bf16_to_float(uint16_t h);
uint16_t ac_float_to_bf16(float f); /* nearest even; NaN stays NaN */

/* n elements of a float storage type (not AC_I32) to and from float. */
void ac_to_float(float *dst, const void *src, ac_type t, size_t n);
void ac_from_float(void *dst, ac_type t, const float *src, size_t n);

#endif
