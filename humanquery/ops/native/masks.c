/* Masks on the CPU: bitmaps to COCO's compressed run lengths, and mask logits to bitmaps. Called through ctypes. */
#include <stdlib.h>
#include <string.h>

#include "threads.h"

/* ---- run lengths -------------------------------------------------------------------------------------------------
 *
 * A picture's masks are read line by line, as they lie in memory, once: most of the bytes belong to nobody, and what is
 * not zero is found where a line differs from the one above it. Those places, ordered by column, are COCO's runs.
 */
#define BLOCK 64 /* bytes that are compared at once */

typedef struct {
    const uint8_t *pixels; /* 0 or 1 */
    char **texts;
    int64_t height, width, from_mask, from_line; /* sizes, and bytes from one to the next */
} Masks;

typedef struct {
    int32_t line, column;
} Flip;

typedef struct {
    Flip *flips; /* where a column turns on or off, line by line; a column set at its bottom turns off at `height` */
    int64_t num_flips, room_for;
    int64_t *places; /* the same, column after column */
    int64_t *first;  /* of every column */
    uint8_t *blank;  /* a line of zeros */
    char *text;
} Coder;

/* Gives 1 where there is no memory for `count` flips. */
static int make_room(Coder *coder, int64_t count)
{
    if (count <= coder->room_for)
        return 0;
    count = 2 * count;
    Flip *flips = realloc(coder->flips, count * sizeof(Flip));
    coder->flips = flips ? flips : coder->flips;
    int64_t *places = realloc(coder->places, count * sizeof(int64_t));
    coder->places = places ? places : coder->places;
    char *text = realloc(coder->text, (count + 2) * 13); /* 13 digits of 5 bits hold any number */
    coder->text = text ? text : coder->text;
    if (!flips || !places || !text)
        return 1;
    coder->room_for = count;
    return 0;
}

static inline uint64_t differ(const uint8_t *a, const uint8_t *b)
{
    uint64_t left[BLOCK / 8], right[BLOCK / 8], found = 0;
    memcpy(left, a, BLOCK);
    memcpy(right, b, BLOCK);
    for (int i = 0; i < BLOCK / 8; i++)
        found |= left[i] ^ right[i];
    return found;
}

static void compare_lines(Coder *coder, const uint8_t *above, const uint8_t *here, int32_t line, int64_t width)
{
    for (int64_t x = 0; x < width;) {
        if (x + BLOCK <= width && !differ(above + x, here + x)) {
            x += BLOCK;
            continue;
        }
        const int64_t end = x + BLOCK < width ? x + BLOCK : width;
        while (x < end) {
            uint64_t a, b;
            if (x + 8 <= end && (memcpy(&a, above + x, 8), memcpy(&b, here + x, 8), a == b)) {
                x += 8;
                continue;
            }
            for (const int64_t last = x + 8 < end ? x + 8 : end; x < last; x++) {
                coder->flips[coder->num_flips] = (Flip){line, (int32_t)x};
                coder->num_flips += above[x] != here[x];
                coder->first[x + 1] += above[x] != here[x];
            }
        }
    }
}

/* Lines are walked from top to bottom, so that flips of a column stay in order. */
static void order_by_column(Coder *coder, int64_t height, int64_t width)
{
    for (int64_t x = 0; x < width; x++)
        coder->first[x + 1] += coder->first[x];
    for (int64_t i = 0; i < coder->num_flips; i++) {
        const Flip flip = coder->flips[i];
        coder->places[coder->first[flip.column]++] = flip.column * height + flip.line;
    }
}

/* COCO's digits of a number: 5 bits and 48, lowest first, and 32 where more follow. */
static char *put_number(char *to, int64_t number)
{
    for (int more = 1; more;) {
        const int digit = number & 31;
        number >>= 5;
        more = number != (digit & 16 ? -1 : 0);
        *to++ = (char)(48 + digit + (more ? 32 : 0));
    }
    return to;
}

/* Runs between the places; from the fourth on what is written is the difference to the last but one. Gives the end. */
static char *put_runs(const Coder *coder, int64_t area)
{
    char *to = coder->text;
    int64_t start = 0, before = 0, last = 0, num_runs = 0;
    for (int64_t i = 0; i <= coder->num_flips; i++) {
        const int64_t place = i < coder->num_flips ? coder->places[i] : area;
        if (i + 1 < coder->num_flips && place == coder->places[i + 1]) {
            i++; /* a column ends set where the next one starts set: the run goes on */
            continue;
        }
        const int64_t run = place - start;
        if (i == coder->num_flips && run == 0 && num_runs)
            break; /* ended with the last column */
        to = put_number(to, num_runs > 2 ? run - before : run);
        before = last, last = run, start = place, num_runs++;
    }
    return to;
}

static int code(Coder *coder, const Masks *masks, int64_t i)
{
    const uint8_t *pixels = masks->pixels + i * masks->from_mask, *above = coder->blank;
    coder->num_flips = 0;
    memset(coder->first, 0, (masks->width + 1) * sizeof(int64_t));
    for (int64_t y = 0; y <= masks->height; y++) {
        const uint8_t *here = y < masks->height ? pixels + y * masks->from_line : coder->blank;
        if (make_room(coder, coder->num_flips + masks->width + 1))
            return 1;
        compare_lines(coder, above, here, (int32_t)y, masks->width);
        above = here;
    }
    order_by_column(coder, masks->height, masks->width);
    const int64_t length = put_runs(coder, masks->height * masks->width) - coder->text;
    masks->texts[i] = malloc(length + 1);
    if (!masks->texts[i])
        return 1;
    memcpy(masks->texts[i], coder->text, length);
    masks->texts[i][length] = 0;
    return 0;
}

static int code_some(const void *given, int64_t from, int64_t to)
{
    const Masks *masks = given;
    Coder coder = {.first = malloc((masks->width + 1) * sizeof(int64_t)), .blank = calloc(masks->width + 1, 1)};
    int failed = !coder.first || !coder.blank;
    for (int64_t i = from; i < to && !failed; i++)
        failed = code(&coder, masks, i);
    free(coder.flips), free(coder.places), free(coder.text), free(coder.first), free(coder.blank);
    return failed;
}

/* One string per mask into `texts`, which came with NULLs and goes to humanquery_free_texts whatever happened; 1 where
 * memory ran out. Bitmaps hold 0 or 1 and have their columns side by side. */
int humanquery_run_lengths(const uint8_t *pixels, char **texts, int64_t count, int64_t height, int64_t width,
                           int64_t from_mask, int64_t from_line, int64_t threads)
{
    const Masks masks = {pixels, texts, height, width, from_mask, from_line};
    return share_out(code_some, &masks, count, threads);
}

void humanquery_free_texts(char **texts, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        free(texts[i]);
}

/* ---- logits to bitmaps -------------------------------------------------------------------------------------------
 *
 * Bilinear between the cells of a map, at places that are the same for a whole line or column of the picture. Nothing can
 * be positive where no cell less than one cell away is.
 */
#define LANES 16

typedef struct {
    const float *logits, *down, *right; /* places: indices of cells, at least 0 */
    uint8_t *masks;                     /* zeros */
    float *inside;
    int64_t cells_high, cells_wide, height, width, from_mask, from_line;
} Maps;

typedef struct {
    int64_t from, to;
} Range;

/* Places less than one cell away from the cells `first`..`last`. */
static Range near(const float *places, int64_t count, int64_t first, int64_t last)
{
    Range range = {count, 0};
    for (int64_t i = 0; i < count; i++)
        if (places[i] > (float)(first - 1) && places[i] < (float)(last + 1)) {
            range.from = i < range.from ? i : range.from;
            range.to = i + 1;
        }
    return range;
}

/* First and last line and column with a positive cell; gives 0 where there is none. */
static int positive_cells(const float *logits, int64_t high, int64_t wide, Range *lines, Range *columns)
{
    *lines = *columns = (Range){INT64_MAX, -1};
    for (int64_t y = 0; y < high; y++, logits += wide) {
        int64_t first = 0, last = wide - 1;
        while (first < wide && !(logits[first] > 0))
            first++;
        if (first == wide)
            continue;
        while (!(logits[last] > 0))
            last--;
        lines->from = y < lines->from ? y : lines->from;
        lines->to = y;
        columns->from = first < columns->from ? first : columns->from;
        columns->to = last > columns->to ? last : columns->to;
    }
    return lines->to >= 0;
}

/* e^-x for 0 <= x <= 80, to 4e-6 of its value: a power of two by its bits, and Taylor's series of 2^part around 0. */
static inline float falling(float x)
{
    const float exponent = x * -1.44269504f;
    const int32_t whole = (int32_t)(exponent - 0.5f), bits = (whole + 127) << 23;
    const float part = (exponent - (float)whole) * 0.693147181f;
    const float series =
        1 + part * (1 + part * (1 / 2.f + part * (1 / 6.f + part * (1 / 24.f + part * (1 / 120.f + part / 720.f)))));
    float two;
    memcpy(&two, &bits, 4);
    return two * series;
}

/* A line of cells at the columns of the picture. */
static void stretch(const float *restrict cells, const int32_t *restrict left, const int32_t *restrict next,
                    const float *restrict share, int64_t count, float *restrict to)
{
    for (int64_t x = 0; x < count; x++) {
        const float a = cells[left[x]], b = cells[next[x]];
        to[x] = a + share[x] * (b - a);
    }
}

/* A line of the picture between two stretched ones: where it is positive, and its probabilities there. */
static void between(const float *restrict above, const float *restrict below, float share, int64_t count,
                    uint8_t *restrict mask, float *restrict probability)
{
    for (int64_t x = 0; x < count; x++) {
        const float logit = above[x] + share * (below[x] - above[x]), size = __builtin_fabsf(logit);
        mask[x] = logit > 0;
        probability[x] = size < 80 ? size : 80; /* also where not a number */
    }
    for (int64_t x = 0; x < count; x++) /* vectorised, as it would not be in one loop with a choice */
        probability[x] = (float)mask[x] / (1 + falling(probability[x]));
}

static float total(const float *values, int64_t count)
{
    float lanes[LANES] = {0}, sum = 0;
    int64_t x = 0;
    for (; x + LANES <= count; x += LANES)
        for (int l = 0; l < LANES; l++)
            lanes[l] += values[x + l];
    for (; x < count; x++)
        sum += values[x];
    for (int l = 0; l < LANES; l++)
        sum += lanes[l];
    return sum;
}

typedef struct {
    int32_t *left, *next; /* columns of the map around every column of the picture */
    float *share;
    float *above, *below; /* stretched lines of the map */
    float *probability;   /* of a line of the picture */
} Easel;

static void paint(const Maps *maps, const Easel *easel, int64_t i)
{
    const float *cells = maps->logits + i * maps->cells_high * maps->cells_wide;
    float *above = easel->above, *below = easel->below;
    Range lines, columns;
    maps->inside[i] = 0;
    if (!positive_cells(cells, maps->cells_high, maps->cells_wide, &lines, &columns))
        return;
    lines = near(maps->down, maps->height, lines.from, lines.to);
    columns = near(maps->right, maps->width, columns.from, columns.to);
    const int64_t count = columns.to - columns.from;
    int64_t set = 0, known = -1; /* line of the map that lies in `above`, with the next one in `below` */
    double sum = 0;
    for (int64_t y = lines.from; y < lines.to && count > 0; y++) {
        const int64_t line = (int64_t)maps->down[y], next = line + 1 < maps->cells_high ? line + 1 : line;
        if (line != known) {
            for (int64_t k = 0; k < 2; k++)
                stretch(cells + (k ? next : line) * maps->cells_wide, easel->left + columns.from,
                        easel->next + columns.from, easel->share + columns.from, count, k ? below : above);
            known = line;
        }
        uint8_t *mask = maps->masks + i * maps->from_mask + y * maps->from_line + columns.from;
        between(above, below, maps->down[y] - (float)line, count, mask, easel->probability);
        sum += total(easel->probability, count);
        for (int64_t x = 0; x < count; x++)
            set += mask[x];
    }
    maps->inside[i] = (float)(sum / ((double)set + 1e-6));
}

static int paint_some(const void *given, int64_t from, int64_t to)
{
    const Maps *maps = given;
    const int64_t width = maps->width;
    char *block = malloc(6 * width * 4 + 4);
    if (!block)
        return 1;
    const Easel easel = {(int32_t *)block, (int32_t *)block + width, (float *)block + 2 * width,
                         (float *)block + 3 * width, (float *)block + 4 * width, (float *)block + 5 * width};
    for (int64_t x = 0; x < width; x++) {
        easel.left[x] = (int32_t)maps->right[x];
        easel.next[x] = easel.left[x] + 1 < maps->cells_wide ? easel.left[x] + 1 : easel.left[x];
        easel.share[x] = maps->right[x] - (float)easel.left[x];
    }
    for (int64_t i = from; i < to; i++)
        paint(maps, &easel, i);
    free(block);
    return 0;
}

/* `masks` count, height, width come as zeros and are 1 where a logit is positive; `inside` count is the mean probability
 * there, 0 where nothing is. All contiguous, but for masks, whose columns are side by side. 1 where memory ran out. */
int humanquery_paint_masks(const float *logits, const float *down, const float *right, uint8_t *masks, float *inside,
                           int64_t count, int64_t cells_high, int64_t cells_wide, int64_t height, int64_t width,
                           int64_t from_mask, int64_t from_line, int64_t threads)
{
    const Maps maps = {logits, down, right, masks, inside, cells_high, cells_wide, height, width, from_mask, from_line};
    return share_out(paint_some, &maps, count, threads);
}
