/* bpe.h - CLIP's byte-level BPE tokenizer, for the vocab.json and merges.txt of any model.
 *
 * Gives the ids of transformers' CLIPTokenizer (version 5, without ftfy) with "<|endoftext|>" as pad token. With
 * another pad token, such as "!" of SD 2.x, that library takes the pad token in the text for a special one; here it
 * stays text, as in OpenCLIP, with which those models were trained. */
#ifndef AC_BPE_H
#define AC_BPE_H

#include "base/mem.h"

typedef struct ac_bpe ac_bpe; /* read-only once opened */

/* Reads `dir`: vocab.json and merges.txt, or where there is no vocab.json tokenizer.json; bos, eos, pad and unk tokens from tokenizer_config.json and
 * special_tokens_map.json where these exist (the latter overrides), else "<|startoftext|>" and "<|endoftext|>". */
AC_CHECK_RESULT int ac_bpe_open(const char *dir, ac_diag *dg, ac_bpe **out);
/* The same from the texts of vocab.json and merges.txt; special tokens are the default ones. */
AC_CHECK_RESULT int ac_bpe_open_text(const char *vocab, const char *merges, ac_diag *dg, ac_bpe **out);
void ac_bpe_close(ac_bpe *b);

int32_t ac_bpe_bos(const ac_bpe *b);
int32_t ac_bpe_eos(const ac_bpe *b);
int32_t ac_bpe_pad(const ac_bpe *b);
size_t ac_bpe_vocab_size(const ac_bpe *b); /* largest id + 1 */

/* Writes bos, the tokens of `utf8` and eos to ids[max], max >= 2, and their number to *n. Tokens that do not fit are
 * dropped before eos; *kept is the byte of `utf8` where the dropped text begins, its length when nothing was dropped.
 * Broken UTF-8 reads as U+FFFD. */
AC_CHECK_RESULT int ac_bpe_encode(const ac_bpe *b, const char *utf8, int max, int32_t *ids, int *n, size_t *kept,
                                  ac_diag *dg);
/* The same, filled up with `pad`; kept may be NULL. */
AC_CHECK_RESULT int ac_bpe_row(const ac_bpe *b, const char *utf8, int max, int32_t pad, int32_t *ids, size_t *kept, ac_diag *dg);
/* Fills ids[n..max) with `pad`. */
void ac_bpe_fill(int32_t *ids, int n, int max, int32_t pad);

#endif
