/* bpe.c - CLIP's byte-level BPE tokenizer.
 *
 * Text passes through these stages, one word (run without white space) at a time, until the ids are full:
 *   raw text    cut at every eos token, spelled exactly
 *   word        NFC, lower case code point by code point; cut at every bos token
 *   piece       contraction, run of letters, one number, or run of anything else (a regular expression)
 *   symbols     one per UTF-8 byte of the piece, the last one with the suffix "</w>"
 *   tokens      adjacent symbols merged, lowest rank first, leftmost first among equals, until no merge applies
 * No stage looks across white space, so a word alone gives what the whole text would. */
#include "io/bpe.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/file.h"
#include "io/json.h"
#include "io/utf8.h"

#define MERGES_MAX ((size_t)16 << 20) /* bytes of merges.txt */
#define ID_MAX     (1 << 24)
/* Code points of a word that are looked at together; what follows counts as another word. A token of CLIP spans at most
 * 32 bytes, so 77 tokens never come near: this bounds the work on a hostile prompt, not the result. */
#define WORD_MAX 8192

/* The text of a bos or eos token between others is no special token when its case differs: it falls into three pieces.
 */
static const char split_pattern[] = "(<\\|(?:start|end)oftext\\|>)"
                                    "|'(?:[stmd]|re|ve|ll)|\\p{L}++|\\p{N}|[^\\p{L}\\p{N}]++";

enum { BOS, EOS, PAD, UNK, SPECIALS };
static const char *const special_key[SPECIALS] = {"bos_token", "eos_token", "pad_token", "unk_token"};

typedef struct merge {
    int32_t left, right;
    int32_t id;    /* of the merged token */
    uint32_t rank; /* line in merges.txt, from 1: lower merges first; 0: an empty slot */
} merge;

struct ac_bpe {
    int32_t byte_id[2][256];   /* symbols of the bytes; [1]: with the suffix "</w>" */
    merge *table;              /* hash table with linear probing */
    int table_bits;            /* it has 2^table_bits slots, at most half of them used */
    int32_t special[SPECIALS]; /* ids */
    char *bos_text;            /* normalised, as it is looked for */
    char *eos_text;            /* raw, as it is looked for */
    size_t vocab_size;
    pcre2_code *split;
};

/* A symbol of a piece: a list linked both ways by index, -1 at the ends. A dead symbol has been merged into its left
 * one. */
typedef struct symbol {
    int32_t id, prev, next;
    uint32_t rank;   /* of the merge with the next symbol, 0: none */
    uint32_t start;  /* first byte in the piece */
    int32_t rank_id; /* token of that merge */
} symbol;

typedef struct encoder {
    const ac_bpe *b;
    ac_diag *dg;
    pcre2_match_data *match;
    AC_VEC(int32_t) cp;    /* word, canonically decomposed */
    AC_VEC(size_t) cp_at;  /* for each of cp: byte of the prompt it comes from */
    ac_str text;           /* word, normalised */
    AC_VEC(size_t) at;     /* for each byte of text: byte of the prompt it comes from */
    AC_VEC(symbol) sym;    /* piece */
    AC_VEC(uint64_t) heap; /* candidate merges, rank << 32 | left symbol; smallest first; may be out of date */
    int32_t *ids;
    int n, max;  /* ids written, and room for them without eos */
    size_t kept; /* byte of the prompt where dropped text begins */
} encoder;

/* ------------------------------------------------------------------------------------------------------ merges */

static size_t slot_of(const ac_bpe *b, int32_t left, int32_t right)
{
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t mask = ((size_t)1 << b->table_bits) - 1;
    size_t i = (size_t)(key * 0x9e3779b97f4a7c15u >> (64 - b->table_bits)); /* Fibonacci hashing */

    while (b->table[i].rank && (b->table[i].left != left || b->table[i].right != right))
        i = (i + 1) & mask;
    return i;
}

static bool heap_push(encoder *e, uint64_t key)
{
    size_t i = e->heap.n;

    if (!AC_PUSH(&e->heap, key))
        return false;
    for (uint64_t *h = e->heap.p; i && h[(i - 1) / 2] > key; i = (i - 1) / 2) {
        h[i] = h[(i - 1) / 2];
        h[(i - 1) / 2] = key;
    }
    return true;
}

static uint64_t heap_pop(encoder *e)
{
    uint64_t *h = e->heap.p, top = h[0], key = h[--e->heap.n];
    size_t i = 0, n = e->heap.n, child;

    while ((child = 2 * i + 1) < n) {
        if (child + 1 < n && h[child + 1] < h[child])
            child++;
        if (h[child] >= key)
            break;
        h[i] = h[child];
        i = child;
    }
    h[i] = key;
    return top;
}

/* Looks up the merge of symbol i with the next one and makes it a candidate. */
static bool offer(encoder *e, int32_t i)
{
    symbol *s = &e->sym.p[i];
    const merge *m;

    s->rank = 0;
    if (s->next < 0)
        return true;
    m = &e->b->table[slot_of(e->b, s->id, e->sym.p[s->next].id)];
    if (!m->rank)
        return true;
    s->rank = m->rank;
    s->rank_id = m->id;
    return heap_push(e, (uint64_t)m->rank << 32 | (uint32_t)i);
}

/* Merges symbol i with the next one. */
static bool merge_at(encoder *e, int32_t i)
{
    symbol *s = &e->sym.p[i], *dead = &e->sym.p[s->next];

    s->id = s->rank_id;
    s->next = dead->next;
    dead->rank = 0;
    if (s->next >= 0)
        e->sym.p[s->next].prev = i;
    return (s->prev < 0 || offer(e, s->prev)) && offer(e, i);
}

/* Appends a token whose text begins at byte `at` of the prompt; 1 when it does not fit. */
static int emit(encoder *e, int32_t id, size_t at)
{
    if (e->n == e->max) {
        e->kept = at;
        return 1;
    }
    e->ids[e->n++] = id;
    return 0;
}

/* The tokens of text[from..from+n), n > 0; 1 when they do not fit. */
static int encode_piece(encoder *e, size_t from, size_t n)
{
    int rc = 0;

    if (!AC_RESERVE(&e->sym, n))
        return ac_nomem(e->dg, n * sizeof *e->sym.p);
    for (size_t i = 0; i < n; i++)
        e->sym.p[i] = (symbol){.id = e->b->byte_id[i + 1 == n][(uint8_t)e->text.p[from + i]],
                               .prev = (int32_t)i - 1,
                               .next = i + 1 < n ? (int32_t)i + 1 : -1,
                               .start = (uint32_t)i};
    e->heap.n = 0;
    for (size_t i = 0; i < n; i++)
        if (!offer(e, (int32_t)i))
            return ac_nomem(e->dg, n * sizeof *e->heap.p);
    while (e->heap.n) {
        uint64_t top = heap_pop(e);
        if (e->sym.p[(uint32_t)top].rank == top >> 32 && !merge_at(e, (int32_t)(uint32_t)top))
            return ac_nomem(e->dg, n * sizeof *e->heap.p);
    }
    for (int32_t i = 0; i >= 0 && rc == 0; i = e->sym.p[i].next)
        rc = emit(e, e->sym.p[i].id, e->at.p[from + e->sym.p[i].start]);
    return rc;
}

/* --------------------------------------------------------------------------------------------------- characters */

/* Unicode's White_Space. */
static bool is_space(int32_t c)
{
    return (c >= 0x09 && c <= 0x0d) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

/* Canonical decomposition of c, at most 4 code points; returns their number. */
static int decompose(int32_t c, int32_t dst[4])
{
    int boundary = 0;
    utf8proc_ssize_t n =
        c < 0xc0 ? 0 : utf8proc_decompose_char(c, dst, 4, UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, &boundary);

    if (n < 1 || n > 4) {
        dst[0] = c;
        n = 1;
    }
    return (int)n;
}

/* Appends a code point that begins at byte `at` of the prompt to the word, decomposed. */
static bool add_code(encoder *e, int32_t c, size_t at)
{
    int32_t part[4];
    int n = decompose(c, part);

    for (int i = 0; i < n; i++)
        if (!AC_PUSH(&e->cp, part[i]) || !AC_PUSH(&e->cp_at, at))
            return false;
    return true;
}

static int by_key(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static int combining_class(int32_t c)
{
    return c < 0x300 ? 0 : utf8proc_get_property(c)->combining_class;
}

/* Canonical ordering (Unicode 3.11, D109): each run of combining marks sorted by class, stable. */
static bool order_marks(encoder *e)
{
    int32_t *cp = e->cp.p;
    uint64_t *key = NULL;

    for (size_t i = 0, end; i < e->cp.n; i = end + 1) {
        for (end = i; end < e->cp.n && combining_class(cp[end]); end++)
            ;
        if (end - i < 2)
            continue;
        if (!key && !(key = ac_calloc(e->cp.n, sizeof *key)))
            return false;
        for (size_t k = i; k < end; k++) /* class, place in the run, code point (21 bits) */
            key[k] = (uint64_t)combining_class(cp[k]) << 56 | (uint64_t)(k - i) << 21 | (uint32_t)cp[k];
        qsort(key + i, end - i, sizeof *key, by_key);
        for (size_t k = i; k < end; k++)
            cp[k] = (int32_t)(key[k] & 0x1fffff);
    }
    free(key);
    return true;
}

static bool add_text(encoder *e, int32_t c, size_t at)
{
    utf8proc_uint8_t buf[4];
    utf8proc_ssize_t n = utf8proc_encode_char(c, buf);

    ac_str_addn(&e->text, (const char *)buf, (size_t)n);
    for (utf8proc_ssize_t i = 0; i < n; i++)
        if (!AC_PUSH(&e->at, at))
            return false;
    return !e->text.failed;
}

/* The decomposed word in cp -> NFC and lower case, in text. */
static bool normalise(encoder *e)
{
    size_t n = e->cp.n, from = 0;
    utf8proc_ssize_t composed;
    int32_t part[4];

    e->text.n = e->at.n = 0;
    if (!order_marks(e))
        return false;
    composed = utf8proc_normalize_utf32(e->cp.p, (utf8proc_ssize_t)n, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    for (utf8proc_ssize_t i = 0; i < composed; i++) {
        int32_t c = e->cp.p[i];
        size_t at = e->cp_at.p[AC_MIN(from, n - 1)];

        from += (size_t)decompose(c, part); /* NFD(NFC(x)) = NFD(x): what c stands for in the decomposed word */
        if (!add_text(e, c == 0x130 ? 'i' : utf8proc_tolower(c), at) || (c == 0x130 && !add_text(e, 0x307, at)))
            return false;
    }
    e->cp.n = e->cp_at.n = 0;
    return true;
}

/* ------------------------------------------------------------------------------------------------------- text */

/* The pieces of text[from..end), which holds no bos token; 1 when they do not fit. */
static int encode_pieces(encoder *e, size_t from, size_t end)
{
    const PCRE2_SIZE *span = pcre2_get_ovector_pointer(e->match);
    int rc = 0;

    while (from < end && rc == 0) {
        size_t stop;
        int groups = pcre2_match(e->b->split, (PCRE2_SPTR)e->text.p, end, from, PCRE2_NO_UTF_CHECK, e->match, NULL);
        if (groups < 1)
            return ac_fail(e->dg, ADDCL_E_INTERNAL, "tokenizer: splitting the prompt failed with PCRE2 error %d",
                           groups);
        stop = span[1];
        if (groups == 2) { /* "<|" "endoftext" "|>" */
            if ((rc = encode_piece(e, from, 2)) == 0 && (rc = encode_piece(e, from + 2, stop - from - 4)) == 0)
                rc = encode_piece(e, stop - 2, 2);
        } else
            rc = encode_piece(e, from, stop - from);
        from = stop;
    }
    return rc;
}

/* The word in cp; 1 when it does not fit. */
static int encode_word(encoder *e)
{
    size_t from = 0, len = strlen(e->b->bos_text);
    int rc = 0;

    if (!normalise(e))
        return ac_nomem(e->dg, e->cp.n * sizeof *e->cp.p);
    while (from < e->text.n && rc == 0) {
        const char *bos = strstr(e->text.p + from, e->b->bos_text);
        size_t end = bos ? (size_t)(bos - e->text.p) : e->text.n;
        rc = encode_pieces(e, from, end);
        if (bos && rc == 0)
            rc = emit(e, e->b->special[BOS], e->at.p[end]);
        from = end + len;
    }
    return rc;
}

/* Prompt bytes [from, end), which hold no eos token; 1 when they do not fit. */
static int encode_words(encoder *e, const char *prompt, size_t from, size_t end)
{
    const char *s = prompt + from;
    int rc = 0;

    while (s < prompt + end && rc == 0) {
        size_t at = (size_t)(s - prompt);
        int32_t c = ac_utf8_next(&s, prompt + end);
        bool space = is_space(c);
        if (!space && !add_code(e, c, at))
            return ac_nomem(e->dg, e->cp.n * sizeof *e->cp.p);
        if (e->cp.n && (space || s == prompt + end || e->cp.n >= WORD_MAX))
            rc = encode_word(e);
    }
    return rc;
}

static void encoder_free(encoder *e)
{
    free(e->cp.p);
    free(e->cp_at.p);
    ac_str_free(&e->text);
    free(e->at.p);
    free(e->sym.p);
    free(e->heap.p);
    pcre2_match_data_free(e->match);
}

int ac_bpe_encode(const ac_bpe *b, const char *utf8, int max, int32_t *ids, int *n, size_t *kept, ac_diag *dg)
{
    size_t len = strlen(utf8), eos_len = strlen(b->eos_text), from = 0;
    encoder e = {.b = b, .dg = dg, .ids = ids, .max = max - 1, .kept = len};
    int rc = 0;

    if (max < 2)
        return ac_fail(dg, ADDCL_E_ARG, "tokenizer: room for %d tokens, expected 2 or more", max);
    if (!(e.match = pcre2_match_data_create(2, NULL)))
        return ac_nomem(dg, sizeof(PCRE2_SIZE) * 4);
    ids[e.n++] = b->special[BOS];
    while (from < len && rc == 0) {
        const char *eos = strstr(utf8 + from, b->eos_text);
        size_t end = eos ? (size_t)(eos - utf8) : len;
        rc = encode_words(&e, utf8, from, end);
        if (eos && rc == 0)
            rc = emit(&e, b->special[EOS], end);
        from = end + eos_len;
    }
    ids[e.n++] = b->special[EOS];
    *n = e.n;
    *kept = e.kept;
    encoder_free(&e);
    return AC_MIN(rc, 0);
}

void ac_bpe_fill(int32_t *ids, int n, int max, int32_t pad)
{
    for (int i = n; i < max; i++)
        ids[i] = pad;
}

/* ---------------------------------------------------------------------------------------------------- opening */

static char *join(const char *dir, const char *name, ac_diag *dg)
{
    char *path = ac_path_join(dir, name);

    if (!path)
        ac_nomem(dg, strlen(dir) + strlen(name) + 2);
    return path;
}

/* Checks that ids are integers in range and given once. Holes are allowed. */
static int check_ids(ac_bpe *b, const ac_json *vocab)
{
    const char *token;
    json_t *value;
    uint8_t *seen = NULL;
    int rc = 0;

    json_object_foreach(vocab->obj, token, value)
    {
        json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        if (id < 0 || id >= ID_MAX)
            return ac_fail(vocab->dg, ADDCL_E_FORMAT, "%s: id of token '%.64s' is no integer in 0..%d", vocab->path,
                           token, ID_MAX - 1);
        b->vocab_size = AC_MAX(b->vocab_size, (size_t)id + 1);
    }
    if (!(seen = ac_calloc(b->vocab_size, 1)))
        return ac_nomem(vocab->dg, b->vocab_size);
    json_object_foreach(vocab->obj, token, value)
    {
        json_int_t id = json_integer_value(value);
        if (seen[id]++) {
            rc = ac_fail(vocab->dg, ADDCL_E_FORMAT, "%s: id %lld is given to two tokens, one of them '%.64s'",
                         vocab->path, (long long)id, token);
            break;
        }
    }
    free(seen);
    return rc;
}

/* Id of the token text[0..n), -1 when there is none. */
static int32_t token_id(const ac_json *vocab, const char *text, size_t n)
{
    const json_t *value = json_object_getn(vocab->obj, text, n);
    return value ? (int32_t)json_integer_value(value) : -1;
}

/* Ids of the 2 x 256 symbols. How vocab.json spells byte b is GPT-2's choice: the printable ones of Latin-1 by
 * themselves, the other 68, in order, as U+0100 and following. A symbol that a small vocabulary lacks becomes the unk
 * token. */
static void fill_bytes(ac_bpe *b, const ac_json *vocab)
{
    int32_t other = 0x100;

    for (int32_t byte = 0; byte < 256; byte++) {
        bool printable = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte != 0xad);
        char text[16];
        size_t n = (size_t)utf8proc_encode_char(printable ? byte : other++, (utf8proc_uint8_t *)text);
        for (int end = 0; end < 2; end++) {
            int32_t id = token_id(vocab, text, n);
            b->byte_id[end][byte] = id < 0 ? b->special[UNK] : id;
            memcpy(text + n, "</w>", 4);
            n += 4;
        }
    }
}

/* Replaces the special tokens that dir/name gives, as a string or as an object with "content"; the file may be absent.
 */
static int read_specials(const char *dir, const char *name, char *token[SPECIALS], ac_diag *dg)
{
    ac_json j = {0};
    char *path = join(dir, name, dg);
    int rc = path ? 0 : ADDCL_E_NOMEM;

    if (rc < 0 || !ac_exists(path))
        goto out;
    AC_TRY(ac_json_open(path, dg, &j));
    for (int i = 0; i < SPECIALS; i++) {
        const json_t *value = json_object_get(j.obj, special_key[i]);
        const char *text = json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
        if (!value || json_is_null(value))
            continue;
        if (!text || !*text) {
            rc = ac_fail(dg, ADDCL_E_FORMAT, "%s: '%s' is neither a token nor an object with one as 'content'", path,
                         special_key[i]);
            goto out;
        }
        free(token[i]);
        if (!(token[i] = ac_strdup(text)))
            AC_TRY(ac_nomem(dg, strlen(text) + 1));
    }
out:
    ac_json_close(&j);
    free(path);
    return rc;
}

/* The text under which bos is found: normalised as the prompt is. */
static int fold_bos(ac_bpe *b, const char *bos, ac_diag *dg)
{
    encoder e = {.b = b, .dg = dg};
    const char *s = bos, *end = bos + strlen(bos);
    bool ok = true;

    while (s < end && ok)
        ok = add_code(&e, ac_utf8_next(&s, end), 0);
    if (ok && normalise(&e))
        b->bos_text = ac_strdup(e.text.p);
    encoder_free(&e);
    return b->bos_text ? 0 : ac_nomem(dg, strlen(bos) + 1);
}

static int load_specials(ac_bpe *b, const char *dir, const ac_json *vocab, ac_diag *dg)
{
    char *token[SPECIALS] = {0};
    int rc = 0;

    for (int i = 0; i < SPECIALS; i++)
        if (!(token[i] = ac_strdup(i == BOS ? "<|startoftext|>" : "<|endoftext|>")))
            AC_TRY(ac_nomem(dg, 16));
    if (dir) {
        AC_TRY(read_specials(dir, "tokenizer_config.json", token, dg));
        AC_TRY(read_specials(dir, "special_tokens_map.json", token, dg));
    }
    for (int i = 0; i < SPECIALS; i++)
        if ((b->special[i] = token_id(vocab, token[i], strlen(token[i]))) < 0) {
            rc = ac_fail(dg, ADDCL_E_FORMAT, "%s: has no token '%.64s', which is the %s", vocab->path, token[i],
                         special_key[i]);
            goto out;
        }
    b->eos_text = token[EOS];
    token[EOS] = NULL;
    rc = fold_bos(b, token[BOS], dg);
out:
    for (int i = 0; i < SPECIALS; i++)
        free(token[i]);
    return rc;
}

/* One line "left right" of merges.txt. A pair that is given twice keeps its last rank, as in the library. */
static int add_merge(ac_bpe *b, const ac_json *vocab, char *line, size_t n, uint32_t rank)
{
    char *space = memchr(line, ' ', n);
    size_t left = space ? (size_t)(space - line) : n;
    merge m = {.rank = rank};

    if (left == 0 || left + 1 >= n || memchr(space + 1, ' ', n - left - 1))
        return ac_fail(vocab->dg, ADDCL_E_FORMAT, "is no pair of tokens with one space between");
    m.left = token_id(vocab, line, left);
    m.right = token_id(vocab, space + 1, n - left - 1);
    memmove(space, space + 1, n - left - 1);
    m.id = token_id(vocab, line, n - 1);
    if (m.left < 0 || m.right < 0 || m.id < 0)
        return ac_fail(vocab->dg, ADDCL_E_FORMAT, "the %s token is not in vocab.json",
                       m.left < 0 ? "first" : (m.right < 0 ? "second" : "merged"));
    b->table[slot_of(b, m.left, m.right)] = m;
    return 0;
}

static int load_merges(ac_bpe *b, const char *path, char *text, size_t n, const ac_json *vocab, ac_diag *dg)
{
    size_t lines = 1;
    uint32_t rank = 0;
    int rc = 0;

    for (size_t i = 0; i < n; i++)
        lines += text[i] == '\n';
    for (b->table_bits = 1; (size_t)1 << b->table_bits < 2 * lines; b->table_bits++)
        ;
    if (!(b->table = ac_calloc((size_t)1 << b->table_bits, sizeof *b->table)))
        AC_TRY(ac_nomem(dg, sizeof *b->table << b->table_bits));
    for (size_t from = 0, end; from < n; from = end + 1) {
        char *line = text + from, *newline = memchr(line, '\n', n - from);
        size_t len = newline ? (size_t)(newline - line) : n - from;
        end = from + len;
        rank++;
        if (len && line[len - 1] == '\r')
            len--;
        if (len == 0 || (rank == 1 && strncmp(line, "#version", 8) == 0))
            continue;
        if ((rc = add_merge(b, vocab, line, len, rank)) < 0) {
            ac_context(dg, "%s: line %u", path, rank);
            goto out;
        }
    }
out:
    return rc;
}

static int compile_split(ac_bpe *b, ac_diag *dg)
{
    int error;
    PCRE2_SIZE at;

    b->split =
        pcre2_compile((PCRE2_SPTR)split_pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_ANCHORED, &error, &at, NULL);
    if (!b->split)
        return ac_fail(dg, ADDCL_E_UNSUPPORTED,
                       "tokenizer: PCRE2 error %d at %zu of its pattern (a PCRE2 without Unicode?)", error, at);
    return 0;
}

/* `dir`: where the configuration of the special tokens lies; NULL: they are the default ones. */
static int open_tables(const ac_json *vocab, const char *dir, const char *merges_path, char *merges, size_t n,
                       ac_diag *dg, ac_bpe **out)
{
    ac_bpe *b = ac_calloc(1, sizeof *b);
    int rc = 0;

    if (!b)
        return ac_nomem(dg, sizeof *b);
    AC_TRY(check_ids(b, vocab));
    AC_TRY(load_specials(b, dir, vocab, dg));
    fill_bytes(b, vocab);
    AC_TRY(load_merges(b, merges_path, merges, n, vocab, dg));
    AC_TRY(compile_split(b, dg));
    *out = b;
    b = NULL;
out:
    ac_bpe_close(b);
    return rc;
}

/* The merges of tokenizer.json, strings "left right" or pairs [left, right], as the lines of a merges.txt. */
static int merges_text(const ac_json *model, ac_str *text)
{
    const json_t *merges = json_object_get(model->obj, "merges"), *m;
    size_t i;

    json_array_foreach(merges, i, m)
    {
        const char *left = json_string_value(json_is_array(m) ? json_array_get(m, 0) : m);
        const char *right = json_is_array(m) ? json_string_value(json_array_get(m, 1)) : "";
        if (!left || !right)
            return ac_fail(model->dg, ADDCL_E_FORMAT, "%s: merge %zu is no pair of tokens", model->path, i + 1);
        ac_str_addf(text, "%s%s%s\n", left, *right ? " " : "", right);
    }
    return text->failed ? ac_nomem(model->dg, text->n) : 0;
}

/* tokenizer.json, which newer tools write alone: vocabulary and merges lie under "model". */
static int open_tokenizer_json(const char *dir, const char *path, ac_diag *dg, ac_bpe **out)
{
    ac_json doc = {0}, model, vocab;
    ac_str merges = {0};
    int rc;

    AC_TRY(ac_json_open(path, dg, &doc));
    if (!ac_json_sub(&doc, "model", &model) || !ac_json_sub(&model, "vocab", &vocab)) {
        rc = doc.rc < 0 ? doc.rc : ac_fail(dg, ADDCL_E_FORMAT, "%s: has no \"model\" with a \"vocab\"", path);
        goto out;
    }
    AC_TRY(merges_text(&model, &merges));
    rc = open_tables(&vocab, dir, path, merges.p ? merges.p : (char[]){""}, merges.n, dg, out);
out:
    ac_str_free(&merges);
    ac_json_close(&doc);
    return rc;
}

int ac_bpe_open(const char *dir, ac_diag *dg, ac_bpe **out)
{
    char *path = join(dir, "vocab.json", dg), *merges_path = join(dir, "merges.txt", dg), *merges = NULL;
    char *whole = join(dir, "tokenizer.json", dg);
    ac_json vocab = {0};
    size_t n = 0;
    int rc = path && merges_path && whole ? 0 : ADDCL_E_NOMEM;

    *out = NULL;
    AC_TRY(rc);
    if (!ac_exists(path) && ac_exists(whole)) {
        rc = open_tokenizer_json(dir, whole, dg, out);
        goto out;
    }
    AC_TRY(ac_json_open(path, dg, &vocab));
    AC_TRY(ac_file_read(merges_path, MERGES_MAX, dg, &merges, &n));
    rc = open_tables(&vocab, dir, merges_path, merges, n, dg, out);
out:
    ac_json_close(&vocab);
    free(merges);
    free(merges_path);
    free(whole);
    free(path);
    return rc;
}

int ac_bpe_open_text(const char *vocab_text, const char *merges, ac_diag *dg, ac_bpe **out)
{
    ac_json vocab = {.path = "vocabulary in the file", .dg = dg};
    char *copy = ac_strdup(merges); /* reading the merges changes the text */
    int rc;

    *out = NULL;
    if (!copy)
        rc = ac_nomem(dg, strlen(merges));
    else if (!(vocab.obj = json_loads(vocab_text, JSON_REJECT_DUPLICATES, NULL)) || !json_is_object(vocab.obj))
        rc = ac_fail(dg, ADDCL_E_FORMAT, "the vocabulary in the file's metadata is no JSON object");
    else
        rc = open_tables(&vocab, NULL, "merges in the file", copy, strlen(copy), dg, out);
    json_decref(vocab.obj);
    free(copy);
    return rc;
}

void ac_bpe_close(ac_bpe *b)
{
    if (!b)
        return;
    free(b->table);
    free(b->bos_text);
    free(b->eos_text);
    pcre2_code_free(b->split);
    free(b);
}

int32_t ac_bpe_bos(const ac_bpe *b)
{
    return b->special[BOS];
}

int32_t ac_bpe_eos(const ac_bpe *b)
{
    return b->special[EOS];
}

int32_t ac_bpe_pad(const ac_bpe *b)
{
    return b->special[PAD];
}

size_t ac_bpe_vocab_size(const ac_bpe *b)
{
    return b->vocab_size;
}

int ac_bpe_row(const ac_bpe *b, const char *utf8, int max, int32_t pad, int32_t *ids, size_t *kept, ac_diag *dg)
{
    size_t end;
    int n, rc = ac_bpe_encode(b, utf8, max, ids, &n, &end, dg);

    if (rc < 0)
        return rc;
    ac_bpe_fill(ids, n, max, pad);
    if (kept)
        *kept = end;
    return 0;
}
