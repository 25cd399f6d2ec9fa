// SPDX-License-Identifier: Apache-2.0
/* Automata in, their rows packed into blocks of cells out: the compiled twin of rows.py, which says what is packed and why. The layout is the
 * comment in bpf/abi.h.
 */
#define BLOCK_CELLS 8192u
#define BLOCK_BITS (BLOCK_CELLS / 64)
#define OPEN_BLOCKS 4
#define CLOSE_BELOW (BLOCK_CELLS / 64)
#define STARTS (BLOCK_CELLS - 255) /* cells where a row may begin: all 255 that are looked at then lie in its block */
#define MAX_BYTE_CLASSES 255
#define WIDE_ROW 8
#define MAX_CLASSES (1u << 24)
#define CELL0 0x40000000u /* DFA_CELL0, DFA_STOP of bpf/abi.h; compared with them in the tests */
#define STOP 0x80000000u

/* Rows by byte class. */
struct placed {
	uint32_t n;
	uint32_t *defaults, *accept, *first, *targets, *place;
	uint8_t *cells;
};

struct bpfence_comb {
	uint64_t (*free)[BLOCK_BITS]; /* by block: a set bit is a free cell */
	uint8_t (*low)[256];          /* by block: see block_fits */
	uint32_t *count;
	uint32_t n_blocks, room;
	uint32_t open[OPEN_BLOCKS], n_open;
	struct placed *automata;
	uint32_t n_automata;
};

static void placed_free(struct placed *a)
{
	free(a->defaults);
	free(a->accept);
	free(a->first);
	free(a->targets);
	free(a->place);
	free(a->cells);
}

void bpfence_comb_free(struct bpfence_comb *comb)
{
	uint32_t i;

	if (!comb)
		return;
	for (i = 0; i < comb->n_automata; i++)
		placed_free(&comb->automata[i]);
	free(comb->automata);
	free(comb->free);
	free(comb->low);
	free(comb->count);
	free(comb);
}

struct bpfence_comb *bpfence_comb_new(void) { return calloc(1, sizeof(struct bpfence_comb)); }

/* ---- byte classes ---- */

/* The exceptions by byte: of byte b: state and target, by state, from column[first[b]] on. */
struct columns {
	uint32_t first[257];
	uint32_t (*entry)[2];
};

static int columns_make(struct columns *c, uint32_t n, const uint32_t *first, const uint8_t *bytes, const uint32_t *targets)
{
	uint32_t fill[256], state, i;

	memset(c->first, 0, sizeof(c->first));
	c->entry = malloc(((size_t)first[n] + 1) * sizeof(*c->entry));
	if (!c->entry)
		return -ENOMEM;
	for (i = 0; i < first[n]; i++)
		c->first[bytes[i] + 1]++;
	for (i = 0; i < 256; i++)
		c->first[i + 1] += c->first[i];
	memcpy(fill, c->first, sizeof(fill));
	for (state = 0; state < n; state++) {
		for (i = first[state]; i < first[state + 1]; i++) {
			c->entry[fill[bytes[i]]][0] = state;
			c->entry[fill[bytes[i]]++][1] = targets[i];
		}
	}
	return 0;
}

static bool columns_equal(const struct columns *c, int one, int other)
{
	size_t n = c->first[one + 1] - c->first[one];

	return n == c->first[other + 1] - c->first[other] && !memcmp(c->entry[c->first[one]], c->entry[c->first[other]], n * sizeof(*c->entry));
}

/* byte -> byte class, as rows.byte_classes has them; returns the byte that gets class 0 because all 256 differ, -1 where none does. */
static int byte_classes(const struct columns *c, uint8_t *table)
{
	int kinds[256], of[256], n_kinds = 0, byte, kind, k, zero = -1, first = 2;
	uint32_t uses[256];

	for (byte = 0; byte < 256; byte++) {
		of[byte] = -1;
		if (c->first[byte] == c->first[byte + 1])
			continue;
		for (kind = 0; kind < n_kinds && !columns_equal(c, kinds[kind], byte);)
			kind++;
		if (kind == n_kinds)
			kinds[n_kinds++] = byte;
		of[byte] = kinds[kind];
	}
	for (kind = 0; kind < n_kinds; kind++)
		uses[kinds[kind]] = c->first[kinds[kind] + 1] - c->first[kinds[kind]];
	/* The most used first, of equals that of the lowest byte. */
	for (kind = 1; kind < n_kinds; kind++) {
		byte = kinds[kind];
		for (k = kind; k && uses[kinds[k - 1]] < uses[byte]; k--)
			kinds[k] = kinds[k - 1];
		kinds[k] = byte;
	}
	memset(table, 1, 256);
	if (n_kinds >= MAX_BYTE_CLASSES) {
		first = 1;
		if (n_kinds > MAX_BYTE_CLASSES)
			zero = kinds[--n_kinds];
		for (byte = 0; byte < 256; byte++)
			if (of[byte] < 0 || byte == zero)
				table[byte] = 0;
	}
	for (kind = 0; kind < n_kinds; kind++)
		for (byte = 0; byte < 256; byte++)
			if (of[byte] == kinds[kind])
				table[byte] = first + kind;
	return zero;
}

/* The row of a state by byte class: its default, and the cells that differ. */
static uint32_t row_cells(uint32_t state_default, const uint8_t *bytes, const uint32_t *targets, uint32_t n, const uint8_t *table, int zero,
			  uint32_t *base, uint8_t *cells, uint32_t *cell_targets)
{
	uint32_t full[256], i, kept = 0;
	bool seen[256] = { false };

	*base = state_default;
	if (zero >= 0) {
		for (i = 0; i < 256; i++)
			full[i] = state_default;
		for (i = 0; i < n; i++)
			full[bytes[i]] = targets[i];
		*base = full[zero];
		for (i = 0; i < 256; i++) {
			if (full[i] == *base)
				continue;
			cells[kept] = table[i];
			cell_targets[kept++] = full[i];
		}
		return kept;
	}
	for (i = 0; i < n; i++) {
		if (seen[table[bytes[i]]])
			continue;
		seen[table[bytes[i]]] = true;
		cells[kept] = table[bytes[i]];
		cell_targets[kept++] = targets[i];
	}
	return kept;
}

/* ---- places ---- */

static uint64_t shifted(const uint64_t *bits, uint32_t word, uint32_t by)
{
	uint32_t at = word + by / 64, rest = by % 64;
	uint64_t low = at < BLOCK_BITS ? bits[at] : 0, high = at + 1 < BLOCK_BITS ? bits[at + 1] : 0;

	return rest ? low >> rest | high << (64 - rest) : low;
}

/* Where in a block a row with these cells fits first; NONE: nowhere. `low`, by cell, is the word before which no row with that cell alone
 * fits, and so none that has it among others; of cell 0, which is never one of `cells`, that of rows without any. Cells are only ever taken.
 */
static uint32_t block_fits(const uint64_t *bits, uint8_t *low, const uint8_t *cells, uint32_t n)
{
	uint32_t word = low[0], i;

	for (i = 0; i < n; i++)
		word = low[cells[i]] > word ? low[cells[i]] : word;
	for (; word < BLOCK_BITS; word++) {
		uint64_t fits = bits[word];

		if (64 * (word + 1) > STARTS)
			fits &= 64 * word >= STARTS ? 0 : ((uint64_t)1 << (STARTS - 64 * word)) - 1;
		for (i = 0; i < n && fits; i++)
			fits &= shifted(bits, word, cells[i]);
		if (!fits)
			continue;
		if (n < 2)
			low[n ? cells[0] : 0] = word;
		return 64 * word + __builtin_ctzll(fits);
	}
	if (n < 2)
		low[n ? cells[0] : 0] = word;
	return NONE;
}

static int block_new(struct bpfence_comb *comb)
{
	if (comb->n_blocks == comb->room) {
		uint32_t room = comb->room ? 2 * comb->room : 8;
		uint64_t (*bits)[BLOCK_BITS] = realloc(comb->free, room * sizeof(*bits));
		uint8_t (*low)[256];
		uint32_t *count;

		if (!bits)
			return -ENOMEM;
		comb->free = bits;
		low = realloc(comb->low, room * sizeof(*low));
		if (!low)
			return -ENOMEM;
		comb->low = low;
		count = realloc(comb->count, room * sizeof(*count));
		if (!count)
			return -ENOMEM;
		comb->count = count;
		comb->room = room;
	}
	memset(comb->free[comb->n_blocks], 0xff, sizeof(*comb->free));
	memset(comb->low[comb->n_blocks], 0, sizeof(*comb->low));
	comb->count[comb->n_blocks] = BLOCK_CELLS;
	if (comb->n_open == OPEN_BLOCKS) {
		memmove(comb->open, comb->open + 1, (OPEN_BLOCKS - 1) * sizeof(*comb->open));
		comb->n_open--;
	}
	comb->open[comb->n_open++] = comb->n_blocks++;
	return 0;
}

static int comb_place(struct bpfence_comb *comb, const uint8_t *cells, uint32_t n, uint32_t *place)
{
	uint32_t at = NONE, block = 0, i, k;
	int error;

	for (k = 0; k < comb->n_open && at == NONE; k++) {
		block = comb->open[k];
		at = block_fits(comb->free[block], comb->low[block], cells, n);
	}
	if (at == NONE) {
		error = block_new(comb);
		if (error)
			return error;
		block = comb->n_blocks - 1;
		at = 0;
	}
	comb->free[block][at / 64] &= ~((uint64_t)1 << at % 64);
	for (i = 0; i < n; i++)
		comb->free[block][(at + cells[i]) / 64] &= ~((uint64_t)1 << (at + cells[i]) % 64);
	comb->count[block] -= n + 1;
	*place = block * BLOCK_CELLS + at;
	if (comb->count[block] >= CLOSE_BELOW)
		return 0;
	for (k = i = 0; k < comb->n_open; k++)
		if (comb->open[k] != block)
			comb->open[i++] = comb->open[k];
	comb->n_open = i;
	return 0;
}

/* Wide rows first, while blocks are empty; then depth first, so that a path's states lie together. */
static int place_rows(struct bpfence_comb *comb, struct placed *a)
{
	bool seen[257] = { false };
	uint32_t width, state;
	int error = 0;

	for (state = 0; state < a->n; state++)
		seen[a->first[state + 1] - a->first[state]] = true;
	for (width = 256; width > WIDE_ROW && !error; width--) {
		for (state = 0; seen[width] && state < a->n && !error; state++)
			if (a->first[state + 1] - a->first[state] == width)
				error = comb_place(comb, a->cells + a->first[state], width, &a->place[state]);
	}
	for (state = 0; state < a->n && !error; state++) {
		width = a->first[state + 1] - a->first[state];
		if (width <= WIDE_ROW)
			error = comb_place(comb, a->cells + a->first[state], width, &a->place[state]);
	}
	return error;
}

static bool rows_valid(uint32_t n, const uint32_t *defaults, const uint32_t *first, const uint8_t *bytes, const uint32_t *targets, uint32_t n_exceptions,
		       const uint32_t *accept)
{
	uint32_t state, i;

	if (!n || first[0] || first[n] != n_exceptions)
		return false;
	for (state = 0; state < n; state++) {
		if (defaults[state] >= n || accept[state] >= MAX_CLASSES || first[state] > first[state + 1] || first[state + 1] > n_exceptions)
			return false;
		for (i = first[state]; i < first[state + 1]; i++)
			if (targets[i] >= n || (i > first[state] && bytes[i] <= bytes[i - 1]))
				return false;
	}
	return true;
}

static int placed_make(struct placed *a, uint32_t n, const uint32_t *defaults, const uint32_t *first, const uint8_t *bytes, const uint32_t *targets,
		       const uint32_t *accept, const uint8_t *table, int zero)
{
	size_t room = zero < 0 ? first[n] : (size_t)n * 255;
	uint32_t state, kept = 0;

	if (room > UINT32_MAX)
		return -E2BIG;
	a->n = n;
	a->defaults = malloc(n * sizeof(uint32_t));
	a->accept = malloc(n * sizeof(uint32_t));
	a->place = malloc(n * sizeof(uint32_t));
	a->first = malloc(((size_t)n + 1) * sizeof(uint32_t));
	a->cells = malloc(room + 1);
	a->targets = malloc((room + 1) * sizeof(uint32_t));
	if (!a->defaults || !a->accept || !a->place || !a->first || !a->cells || !a->targets)
		return -ENOMEM;
	memcpy(a->accept, accept, n * sizeof(uint32_t));
	for (state = 0; state < n; state++) {
		uint32_t from = first[state];

		a->first[state] = kept;
		kept += row_cells(defaults[state], bytes + from, targets + from, first[state + 1] - from, table, zero, &a->defaults[state],
				  a->cells + kept, a->targets + kept);
	}
	a->first[n] = kept;
	return 0;
}

/* Places the rows of an automaton behind those that were added before. `table`: its 256 byte classes. */
int bpfence_comb_add(struct bpfence_comb *comb, uint32_t n, const uint32_t *defaults, const uint32_t *first, const uint8_t *bytes,
		     const uint32_t *targets, uint32_t n_exceptions, const uint32_t *accept, uint8_t *table)
{
	struct columns columns = { .entry = NULL };
	struct placed *automata, *a;
	int zero, error;

	if (!rows_valid(n, defaults, first, bytes, targets, n_exceptions, accept))
		return -EINVAL;
	automata = realloc(comb->automata, ((size_t)comb->n_automata + 1) * sizeof(*automata));
	if (!automata)
		return -ENOMEM;
	comb->automata = automata;
	a = &automata[comb->n_automata];
	memset(a, 0, sizeof(*a));
	error = columns_make(&columns, n, first, bytes, targets);
	if (!error) {
		zero = byte_classes(&columns, table);
		error = placed_make(a, n, defaults, first, bytes, targets, accept, table, zero);
	}
	if (!error)
		error = place_rows(comb, a);
	free(columns.entry);
	if (error)
		placed_free(a);
	else
		comb->n_automata++;
	return error;
}

uint32_t bpfence_comb_blocks(const struct bpfence_comb *comb) { return comb->n_blocks; }

/* Writes all blocks to `words`, zeroed, of which there must be enough; `base` is the ref of the first of them. `starts`: by automaton, the ref of
 * its start state.
 */
int bpfence_comb_write(const struct bpfence_comb *comb, uint32_t *words, uint64_t n_words, uint32_t base, uint32_t *starts)
{
	uint32_t i, state, k;

	if (n_words < 2 * (uint64_t)comb->n_blocks * BLOCK_CELLS || base + 2 * (uint64_t)comb->n_blocks * BLOCK_CELLS > CELL0)
		return -E2BIG;
	for (i = 0; i < comb->n_automata; i++) {
		const struct placed *a = &comb->automata[i];

		for (state = 0; state < a->n; state++) {
			uint32_t *own = words + 2 * (size_t)a->place[state], ref = base + 2 * a->place[state];
			bool stop = a->first[state] == a->first[state + 1] && a->defaults[state] == state;

			own[0] = a->accept[state] | CELL0 | (stop ? STOP : 0);
			own[1] = base + 2 * a->place[a->defaults[state]];
			for (k = a->first[state]; k < a->first[state + 1]; k++) {
				own[2 * a->cells[k]] = ref;
				own[2 * a->cells[k] + 1] = base + 2 * a->place[a->targets[k]];
			}
		}
		starts[i] = base + 2 * a->place[0];
	}
	return 0;
}
