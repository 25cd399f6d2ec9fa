// SPDX-License-Identifier: Apache-2.0
/* Pattern programs in, one minimised automaton over bytes out: the compiled twin of determinise.py, which says what is built and why.
 *
 * A program is the tree of a pattern as `automaton.program` writes it. Nothing in it is trusted: lengths are checked against its end, states and
 * memory against budgets. Every function returns 0 or a negative errno: -EINVAL for what is no program, -E2BIG beyond a budget, -ENOMEM.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define NONE UINT32_MAX
#define SLASH 0x2f
#define MAX_NESTING 64
#define MAX_NODES (1u << 26)
#define MAX_EXCEPTIONS (1u << 29)

struct bpfence_automaton {
	uint32_t n_states, n_exceptions, n_classes, n_members;
	uint32_t *defaults;      /* by state */
	uint32_t *first;         /* by state, and the end: its exceptions */
	uint8_t *bytes;          /* by exception */
	uint32_t *targets;
	uint32_t *accept;        /* by state */
	uint32_t *class_first;   /* by class, and the end: its members */
	uint32_t *members;       /* numbers of patterns, ascending */
};

/* ---- arrays that grow ---- */

struct words {
	uint32_t *at;
	size_t n, room;
};

static int words_reserve(struct words *w, size_t more)
{
	size_t room = w->room ? w->room : 64;
	uint32_t *at;

	if (w->room - w->n >= more)
		return 0;
	if (more > SIZE_MAX / 16 - w->n)
		return -ENOMEM;
	while (room < w->n + more)
		room *= 2;
	at = realloc(w->at, room * sizeof(*at));
	if (!at)
		return -ENOMEM;
	w->at = at;
	w->room = room;
	return 0;
}

static int words_put(struct words *w, uint32_t value)
{
	int error = words_reserve(w, 1);

	if (!error)
		w->at[w->n++] = value;
	return error;
}

static int words_append(struct words *w, const uint32_t *from, size_t n)
{
	int error = words_reserve(w, n);

	if (error)
		return error;
	if (n)
		memcpy(w->at + w->n, from, n * sizeof(*from));
	w->n += n;
	return 0;
}

static int words_fill(struct words *w, uint32_t value, size_t n)
{
	int error = words_reserve(w, n);

	if (error)
		return error;
	while (n--)
		w->at[w->n++] = value;
	return 0;
}

static uint64_t hash_bytes(const void *data, size_t size, uint64_t seed)
{
	const uint8_t *at = data;
	uint64_t hash = seed ^ 0x9e3779b97f4a7c15ull;
	uint64_t word;

	for (; size >= 8; size -= 8, at += 8) {
		memcpy(&word, at, 8);
		hash = (hash ^ word) * 0xff51afd7ed558ccdull;
		hash ^= hash >> 32;
	}
	word = size;
	if (size)
		memcpy(&word, at, size);
	hash = (hash ^ word ^ (uint64_t)size << 56) * 0xc4ceb9fe1a85ec53ull;
	return hash ^ hash >> 29;
}

/* An open table of numbers by hash. Whoever looks compares what the numbers stand for: equal hashes mean nothing. */
struct table {
	uint32_t *slot;
	size_t room, used;
};

static int table_make(struct table *t, size_t entries)
{
	size_t room = 64;

	while (room < entries * 2)
		room *= 2;
	t->slot = malloc(room * sizeof(*t->slot));
	if (!t->slot)
		return -ENOMEM;
	memset(t->slot, 0xff, room * sizeof(*t->slot));
	t->room = room;
	t->used = 0;
	return 0;
}

static void table_free(struct table *t)
{
	free(t->slot);
	t->slot = NULL;
}

/* ---- the NFA: a tree of nodes; a loop is 0: none, 1: any byte but '/', 2: any byte ---- */

struct link {
	uint32_t next, target;
	uint8_t low, high;
};

struct nfa {
	struct words loop, edges, ranges, epsilon, accept; /* by node: its loop, and the first link of each kind */
	struct link *links;
	size_t n_links, room_links;
	struct table shared; /* node and piece -> the node behind it, so that common beginnings are one */
	struct words shared_node, shared_at, shared_size, shared_end, shared_hash;
	const uint8_t *text;
	struct words closure_first, closure;
};

static void nfa_free(struct nfa *nfa)
{
	struct words *all[] = { &nfa->loop, &nfa->edges, &nfa->ranges, &nfa->epsilon, &nfa->accept, &nfa->shared_node, &nfa->shared_at,
				&nfa->shared_size, &nfa->shared_end, &nfa->shared_hash, &nfa->closure_first, &nfa->closure };
	size_t i;

	for (i = 0; i < sizeof(all) / sizeof(*all); i++)
		free(all[i]->at);
	free(nfa->links);
	table_free(&nfa->shared);
}

static int nfa_node(struct nfa *nfa, uint32_t loop, uint32_t *node)
{
	if (nfa->loop.n >= MAX_NODES)
		return -E2BIG;
	*node = nfa->loop.n;
	if (words_put(&nfa->loop, loop) || words_put(&nfa->edges, NONE) || words_put(&nfa->ranges, NONE) || words_put(&nfa->epsilon, NONE) ||
	    words_put(&nfa->accept, NONE))
		return -ENOMEM;
	return 0;
}

static int nfa_link(struct nfa *nfa, struct words *heads, uint32_t node, uint32_t target, uint8_t low, uint8_t high)
{
	if (nfa->n_links == nfa->room_links) {
		size_t room = nfa->room_links ? 2 * nfa->room_links : 64;
		struct link *links = room < NONE ? realloc(nfa->links, room * sizeof(*links)) : NULL;

		if (!links)
			return -ENOMEM;
		nfa->links = links;
		nfa->room_links = room;
	}
	nfa->links[nfa->n_links] = (struct link){ .next = heads->at[node], .target = target, .low = low, .high = high };
	heads->at[node] = nfa->n_links++;
	return 0;
}

static uint32_t read_word(const uint8_t *at) { return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24; }

static int nfa_follow(struct nfa *nfa, uint32_t *node, size_t at, size_t end, int depth);

/* Where the piece at `at` ends. */
static int piece_size(const uint8_t *text, size_t at, size_t end, size_t *size)
{
	size_t start = at, left = end - at;
	uint32_t n;

	if (left < 1)
		return -EINVAL;
	switch (text[at]) {
	case 'B':
		*size = 1;
		return 0;
	case 'S':
		*size = 2;
		return left < 2 ? -EINVAL : 0;
	}
	if (left < 5)
		return -EINVAL;
	n = read_word(text + at + 1);
	at += 5;
	switch (text[start]) {
	case 'T':
		if (end - at < n)
			return -EINVAL;
		at += n;
		break;
	case 'O': /* sequences of ranges: how many, then low and high of each */
		for (; n; n--) {
			if (at == end || !text[at] || end - at - 1 < 2 * (size_t)text[at])
				return -EINVAL;
			at += 1 + 2 * (size_t)text[at];
		}
		break;
	case 'E': /* branches: how long, then a program */
		for (; n; n--) {
			if (end - at < 4 || end - at - 4 < read_word(text + at))
				return -EINVAL;
			at += 4 + (size_t)read_word(text + at);
		}
		break;
	default:
		return -EINVAL;
	}
	*size = at - start;
	return 0;
}

static int extend_one(struct nfa *nfa, uint32_t node, uint32_t end_node, size_t at)
{
	uint32_t n = read_word(nfa->text + at + 1), i, before, following;
	const uint8_t *sequence = nfa->text + at + 5;
	int error;

	for (; n; n--, sequence += 1 + 2 * sequence[0]) {
		before = node;
		for (i = 0; i < sequence[0]; i++) {
			following = end_node;
			if (i + 1 < sequence[0]) {
				error = nfa_node(nfa, 0, &following);
				if (error)
					return error;
			}
			error = nfa_link(nfa, &nfa->ranges, before, following, sequence[1 + 2 * i], sequence[2 + 2 * i]);
			if (error)
				return error;
			before = following;
		}
	}
	return 0;
}

static int extend_either(struct nfa *nfa, uint32_t node, uint32_t end_node, size_t at, int depth)
{
	uint32_t n = read_word(nfa->text + at + 1), branch, size;
	int error;

	for (at += 5; n; n--, at += 4 + (size_t)size) {
		size = read_word(nfa->text + at);
		branch = node;
		error = nfa_follow(nfa, &branch, at + 4, at + 4 + size, depth + 1);
		if (!error)
			error = nfa_link(nfa, &nfa->epsilon, branch, end_node, 0, 0);
		if (error)
			return error;
	}
	return 0;
}

static int nfa_extend(struct nfa *nfa, uint32_t node, size_t at, uint32_t *end_node, int depth)
{
	uint32_t inside;
	int error;

	if (nfa->text[at] == 'S') {
		error = nfa_node(nfa, nfa->text[at + 1] ? 2 : 1, end_node);
		return error ? error : nfa_link(nfa, &nfa->epsilon, node, *end_node, 0, 0);
	}
	error = nfa_node(nfa, 0, end_node);
	if (error)
		return error;
	if (nfa->text[at] == 'O')
		return extend_one(nfa, node, *end_node, at);
	if (nfa->text[at] == 'E')
		return extend_either(nfa, node, *end_node, at, depth);
	error = nfa_node(nfa, 2, &inside);
	if (!error)
		error = nfa_link(nfa, &nfa->epsilon, node, *end_node, 0, 0);
	if (!error)
		error = nfa_link(nfa, &nfa->epsilon, node, inside, 0, 0);
	return error ? error : nfa_link(nfa, &nfa->edges, inside, *end_node, SLASH, SLASH);
}

/* The slot of a node with a piece behind it: of the one that is known, or a free one. */
static size_t shared_slot(struct nfa *nfa, uint32_t node, size_t at, size_t size, uint64_t hash)
{
	size_t slot = hash & (nfa->shared.room - 1);

	for (;; slot = (slot + 1) & (nfa->shared.room - 1)) {
		uint32_t found = nfa->shared.slot[slot];

		if (found == NONE)
			return slot;
		if (nfa->shared_node.at[found] == node && nfa->shared_size.at[found] == size &&
		    !memcmp(nfa->text + nfa->shared_at.at[found], nfa->text + at, size))
			return slot;
	}
}

static int shared_grow(struct nfa *nfa)
{
	struct table bigger;
	uint32_t i;

	if (2 * nfa->shared.used < nfa->shared.room)
		return 0;
	if (table_make(&bigger, 2 * nfa->shared.used + 64))
		return -ENOMEM;
	for (i = 0; i < nfa->shared_node.n; i++) {
		size_t slot = nfa->shared_hash.at[i] & (bigger.room - 1);

		while (bigger.slot[slot] != NONE)
			slot = (slot + 1) & (bigger.room - 1);
		bigger.slot[slot] = i;
	}
	bigger.used = nfa->shared.used;
	table_free(&nfa->shared);
	nfa->shared = bigger;
	return 0;
}

static int nfa_piece(struct nfa *nfa, uint32_t *node, size_t at, size_t size, int depth)
{
	uint32_t hash = (uint32_t)hash_bytes(nfa->text + at, size, *node), end_node, number;
	size_t slot;
	int error = shared_grow(nfa);

	if (error)
		return error;
	slot = shared_slot(nfa, *node, at, size, hash);
	if (nfa->shared.slot[slot] != NONE) {
		*node = nfa->shared_end.at[nfa->shared.slot[slot]];
		return 0;
	}
	error = nfa_extend(nfa, *node, at, &end_node, depth);
	if (!error)
		error = shared_grow(nfa); /* by what lies within the piece */
	if (error)
		return error;
	number = nfa->shared_node.n;
	if (words_put(&nfa->shared_node, *node) || words_put(&nfa->shared_at, at) || words_put(&nfa->shared_size, size) ||
	    words_put(&nfa->shared_end, end_node) || words_put(&nfa->shared_hash, hash))
		return -ENOMEM;
	nfa->shared.slot[shared_slot(nfa, *node, at, size, hash)] = number;
	nfa->shared.used++;
	*node = end_node;
	return 0;
}

static int nfa_text(struct nfa *nfa, uint32_t *node, const uint8_t *bytes, uint32_t n)
{
	uint32_t link, following;
	int error;

	for (; n; n--, bytes++) {
		for (link = nfa->edges.at[*node]; link != NONE && nfa->links[link].low != *bytes;)
			link = nfa->links[link].next;
		if (link != NONE) {
			*node = nfa->links[link].target;
			continue;
		}
		error = nfa_node(nfa, 0, &following);
		if (!error)
			error = nfa_link(nfa, &nfa->edges, *node, following, *bytes, *bytes);
		if (error)
			return error;
		*node = following;
	}
	return 0;
}

/* From `*node` on, the program text[at .. end): `*node` becomes the node behind it. */
static int nfa_follow(struct nfa *nfa, uint32_t *node, size_t at, size_t end, int depth)
{
	size_t size;
	int error;

	if (depth > MAX_NESTING)
		return -EINVAL;
	for (; at < end; at += size) {
		error = piece_size(nfa->text, at, end, &size);
		if (!error && nfa->text[at] == 'T')
			error = nfa_text(nfa, node, nfa->text + at + 5, read_word(nfa->text + at + 1));
		else if (!error)
			error = nfa_piece(nfa, node, at, size, depth);
		if (error)
			return error;
	}
	return 0;
}

static int compare_words(const void *one, const void *other)
{
	uint32_t a = *(const uint32_t *)one, b = *(const uint32_t *)other;

	return a < b ? -1 : a > b;
}

/* Per node, the sorted nodes reached without a byte. */
static int nfa_closures(struct nfa *nfa)
{
	uint32_t *seen = calloc(nfa->loop.n, sizeof(*seen)), node, link;
	struct words *closure = &nfa->closure;
	size_t first, at;
	int error = -ENOMEM;

	if (!seen)
		return -ENOMEM;
	for (node = 0; node < nfa->loop.n; node++) {
		first = closure->n;
		if (words_put(&nfa->closure_first, first) || words_put(closure, node))
			goto done;
		seen[node] = node + 1;
		for (at = first; at < closure->n; at++) {
			for (link = nfa->epsilon.at[closure->at[at]]; link != NONE; link = nfa->links[link].next) {
				uint32_t target = nfa->links[link].target;

				if (seen[target] == node + 1)
					continue;
				seen[target] = node + 1;
				if (words_put(closure, target))
					goto done;
			}
		}
		if (closure->n - first > 1)
			qsort(closure->at + first, closure->n - first, sizeof(uint32_t), compare_words);
		if (closure->n > MAX_NODES) {
			error = -E2BIG;
			goto done;
		}
	}
	error = words_put(&nfa->closure_first, closure->n);
done:
	free(seen);
	return error;
}

static int nfa_make(struct nfa *nfa, const uint8_t *text, const uint32_t *ends, uint32_t n)
{
	uint32_t i, node, at = 0;
	int error = nfa_node(nfa, 0, &node);

	nfa->text = text;
	for (i = 0; i < n && !error; i++) {
		node = 0;
		if (ends[i] < at)
			return -EINVAL;
		error = nfa_follow(nfa, &node, at, ends[i], 0);
		if (!error)
			error = nfa_link(nfa, &nfa->accept, node, i, 0, 0);
		at = ends[i];
	}
	return error ? error : nfa_closures(nfa);
}

/* ---- subset construction ---- */

/* A deterministic automaton before minimisation. State 0 is dead; `accept` numbers sets of patterns, 0 the empty one. */
struct raw {
	struct words defaults, first, bytes, targets, accept;
	struct words set_first, sets;
	uint32_t start;
};

static void raw_free(struct raw *raw)
{
	free(raw->defaults.at);
	free(raw->first.at);
	free(raw->bytes.at);
	free(raw->targets.at);
	free(raw->accept.at);
	free(raw->set_first.at);
	free(raw->sets.at);
}

/* Sets of numbers, each once, numbered as they come. */
struct family {
	struct words *first, *members; /* of set n: members[first[n] .. first[n + 1]) */
	struct words hash;
	struct table table;
};

static int family_put(struct family *f, const uint32_t *set, size_t n, uint32_t *number)
{
	uint64_t hash = hash_bytes(set, n * sizeof(*set), 1);
	size_t slot;
	uint32_t i;

	if (!f->table.slot || 2 * f->table.used >= f->table.room) {
		struct table bigger;

		if (table_make(&bigger, 2 * f->table.used + 64))
			return -ENOMEM;
		for (i = 0; i < f->hash.n; i++) {
			slot = f->hash.at[i] & (bigger.room - 1);
			while (bigger.slot[slot] != NONE)
				slot = (slot + 1) & (bigger.room - 1);
			bigger.slot[slot] = i;
		}
		bigger.used = f->table.used;
		table_free(&f->table);
		f->table = bigger;
	}
	slot = (uint32_t)hash & (f->table.room - 1);
	for (; (i = f->table.slot[slot]) != NONE; slot = (slot + 1) & (f->table.room - 1)) {
		size_t from = f->first->at[i], size = f->first->at[i + 1] - from;

		if (f->hash.at[i] == (uint32_t)hash && size == n && (!n || !memcmp(f->members->at + from, set, n * sizeof(*set)))) {
			*number = i;
			return 0;
		}
	}
	*number = f->hash.n;
	f->table.slot[slot] = *number;
	f->table.used++;
	if (words_append(f->members, set, n) || words_put(f->first, f->members->n) || words_put(&f->hash, (uint32_t)hash))
		return -ENOMEM;
	return 0;
}

static int family_make(struct family *f, struct words *first, struct words *members)
{
	uint32_t empty;

	f->first = first;
	f->members = members;
	return words_put(first, 0) ? -ENOMEM : family_put(f, NULL, 0, &empty);
}

static void family_free(struct family *f)
{
	free(f->hash.at);
	table_free(&f->table);
}

/* Work space for the rows of one construction. */
struct subset {
	struct nfa *nfa;
	struct raw *raw;
	struct family states, accepts;
	struct words state_first, state_nodes;
	struct words stay, cross, next, set;
	struct words by_byte[256];
	uint32_t *mark, epoch; /* by node */
	uint32_t budget;
	bool first;  /* what was found first counts: an accepting state is left no more */
	size_t room; /* for the members of all sets */
};

static int subset_state(struct subset *s, const struct words *nodes, uint32_t *number)
{
	int error = family_put(&s->states, nodes->at, nodes->n, number);

	if (error)
		return error;
	return *number > s->budget || s->state_nodes.n > s->room ? -E2BIG : 0;
}

static uint32_t subset_epoch(struct subset *s)
{
	if (++s->epoch == 0) {
		memset(s->mark, 0, s->nfa->loop.n * sizeof(*s->mark));
		s->epoch = 1;
	}
	return s->epoch;
}

/* Adds the closure of a node to what is marked with the current epoch. */
static int subset_add(struct subset *s, struct words *set, uint32_t node)
{
	uint32_t i, end = s->nfa->closure_first.at[node + 1];

	for (i = s->nfa->closure_first.at[node]; i < end; i++) {
		uint32_t member = s->nfa->closure.at[i];

		if (s->mark[member] == s->epoch)
			continue;
		s->mark[member] = s->epoch;
		if (words_put(set, member))
			return -ENOMEM;
	}
	return 0;
}

static void sort_words(uint32_t *at, size_t n)
{
	size_t i, k;

	if (n > 32) {
		qsort(at, n, sizeof(*at), compare_words);
		return;
	}
	for (i = 1; i < n; i++) {
		uint32_t value = at[i];

		for (k = i; k && at[k - 1] > value; k--)
			at[k] = at[k - 1];
		at[k] = value;
	}
}

/* Of a loop's nodes, sorted, and the closures of targets: their union, as a state. */
static int subset_union(struct subset *s, const struct words *loops, const struct words *targets, uint32_t *number)
{
	struct words *set = &s->set, *next = &s->next;
	size_t i, k = 0;
	int error;

	next->n = 0;
	set->n = 0;
	subset_epoch(s);
	for (i = 0; i < loops->n; i++)
		s->mark[loops->at[i]] = s->epoch;
	for (i = 0; i < targets->n; i++) {
		error = subset_add(s, next, targets->at[i]);
		if (error)
			return error;
	}
	sort_words(next->at, next->n);
	error = words_reserve(set, loops->n + next->n);
	if (error)
		return error;
	for (i = 0; i < loops->n; i++) {
		while (k < next->n && next->at[k] < loops->at[i])
			set->at[set->n++] = next->at[k++];
		set->at[set->n++] = loops->at[i];
	}
	while (k < next->n)
		set->at[set->n++] = next->at[k++];
	return subset_state(s, set, number);
}

/* The nodes that a state's loops lead to, over '/' and over other bytes. */
static int subset_loops(struct subset *s, const uint32_t *nodes, size_t n)
{
	size_t i;
	int error = 0;

	s->stay.n = s->cross.n = 0;
	subset_epoch(s);
	for (i = 0; i < n && !error; i++)
		if (s->nfa->loop.at[nodes[i]])
			error = subset_add(s, &s->stay, nodes[i]);
	subset_epoch(s);
	for (i = 0; i < n && !error; i++)
		if (s->nfa->loop.at[nodes[i]] == 2)
			error = subset_add(s, &s->cross, nodes[i]);
	sort_words(s->stay.at, s->stay.n);
	sort_words(s->cross.at, s->cross.n);
	return error;
}

static int subset_targets(struct subset *s, uint32_t node)
{
	uint32_t link, byte;

	for (link = s->nfa->edges.at[node]; link != NONE; link = s->nfa->links[link].next)
		if (words_put(&s->by_byte[s->nfa->links[link].low], s->nfa->links[link].target))
			return -ENOMEM;
	for (link = s->nfa->ranges.at[node]; link != NONE; link = s->nfa->links[link].next)
		for (byte = s->nfa->links[link].low; byte <= s->nfa->links[link].high; byte++)
			if (words_put(&s->by_byte[byte], s->nfa->links[link].target))
				return -ENOMEM;
	return 0;
}

static bool words_equal(const struct words *a, const struct words *b)
{
	return a->n == b->n && (!a->n || !memcmp(a->at, b->at, a->n * sizeof(*a->at)));
}

/* The row of state `number`: a default, and the bytes that leave it. */
static int subset_row(struct subset *s, uint32_t number)
{
	uint32_t from = s->state_first.at[number], n = s->state_first.at[number + 1] - from, i, byte, target = 0, default_target;
	static const struct words nothing;
	bool slash_leaves = false;
	int last = -1, excepted = 0, error;
	uint32_t zero = 0;

	for (byte = 0; byte < 256; byte++)
		s->by_byte[byte].n = 0;
	error = subset_loops(s, s->state_nodes.at + from, n);
	for (i = 0; i < n && !error; i++) {
		uint32_t node = s->state_nodes.at[from + i];

		slash_leaves |= s->nfa->loop.at[node] == 1;
		error = subset_targets(s, node);
	}
	for (byte = 0; byte < 256 && !error; byte++) {
		const struct words *following = &s->by_byte[byte];

		if (!following->n && !(byte == SLASH && slash_leaves))
			continue;
		/* Bytes of one range go where the one before went. */
		if (last < 0 || last == SLASH || byte == SLASH || !words_equal(&s->by_byte[last], following))
			error = subset_union(s, byte == SLASH ? &s->cross : &s->stay, following, &target);
		if (error)
			break;
		last = byte;
		if (!byte)
			zero = target;
		excepted++;
		if (words_put(&s->raw->bytes, byte) || words_put(&s->raw->targets, target))
			error = -ENOMEM;
	}
	/* A default that no byte takes must not count as a successor. */
	default_target = zero;
	if (!error && excepted < 256)
		error = subset_union(s, &s->stay, &nothing, &default_target);
	return error ? error : words_put(&s->raw->defaults, default_target);
}

/* The same of a state that is one node of a trie: most are. */
static int subset_trie_row(struct subset *s, uint32_t node)
{
	uint32_t link, n = 0, i, k, target;
	struct link *found[256];

	for (link = s->nfa->edges.at[node]; link != NONE && n < 256; link = s->nfa->links[link].next) {
		for (k = n++; k && found[k - 1]->low > s->nfa->links[link].low; k--)
			found[k] = found[k - 1];
		found[k] = &s->nfa->links[link];
	}
	for (i = 0; i < n; i++) {
		uint32_t from = s->nfa->closure_first.at[found[i]->target];
		struct words closure = { .at = s->nfa->closure.at + from, .n = s->nfa->closure_first.at[found[i]->target + 1] - from };
		int error = subset_state(s, &closure, &target);

		if (error)
			return error;
		if (words_put(&s->raw->bytes, found[i]->low) || words_put(&s->raw->targets, target))
			return -ENOMEM;
	}
	return words_put(&s->raw->defaults, 0);
}

static int subset_accept(struct subset *s, uint32_t number)
{
	uint32_t from = s->state_first.at[number], to = s->state_first.at[number + 1], i, link, set;
	size_t kept = 0;
	int error;

	s->set.n = 0;
	for (i = from; i < to; i++)
		for (link = s->nfa->accept.at[s->state_nodes.at[i]]; link != NONE; link = s->nfa->links[link].next)
			if (words_put(&s->set, s->nfa->links[link].target))
				return -ENOMEM;
	if (s->set.n)
		sort_words(s->set.at, s->set.n);
	for (i = 0; i < s->set.n; i++)
		if (!i || s->set.at[i] != s->set.at[kept - 1])
			s->set.at[kept++] = s->set.at[i];
	error = family_put(&s->accepts, s->set.at, kept, &set);
	return error ? error : words_put(&s->raw->accept, set);
}

static bool is_trie(const struct subset *s, uint32_t number)
{
	uint32_t from = s->state_first.at[number], node;

	if (s->state_first.at[number + 1] - from != 1)
		return false;
	node = s->state_nodes.at[from];
	return !s->nfa->loop.at[node] && s->nfa->ranges.at[node] == NONE;
}

static int subset_construct(struct subset *s)
{
	struct words start = { .at = s->nfa->closure.at, .n = s->nfa->closure_first.at[1] };
	uint32_t number;
	int error = family_make(&s->states, &s->state_first, &s->state_nodes);

	if (!error)
		error = family_make(&s->accepts, &s->raw->set_first, &s->raw->sets);
	if (!error)
		error = subset_state(s, &start, &s->raw->start);
	for (number = 0; !error && number < s->states.hash.n; number++) {
		error = words_put(&s->raw->first, s->raw->bytes.n);
		if (!error)
			error = subset_accept(s, number);
		if (!error && s->first && s->raw->accept.at[number])
			error = words_put(&s->raw->defaults, number);
		else if (!error)
			error = is_trie(s, number) ? subset_trie_row(s, s->state_nodes.at[s->state_first.at[number]]) : subset_row(s, number);
		if (!error && s->raw->bytes.n > MAX_EXCEPTIONS)
			error = -E2BIG;
	}
	return error ? error : words_put(&s->raw->first, s->raw->bytes.n);
}

static int determinise(struct nfa *nfa, struct raw *raw, uint32_t budget, size_t room, bool first)
{
	struct subset s = { .nfa = nfa, .raw = raw, .budget = budget, .room = room, .first = first };
	int i, error = -ENOMEM;

	s.mark = calloc(nfa->loop.n, sizeof(*s.mark));
	if (s.mark)
		error = subset_construct(&s);
	for (i = 0; i < 256; i++)
		free(s.by_byte[i].at);
	free(s.mark);
	free(s.state_first.at);
	free(s.state_nodes.at);
	free(s.stay.at);
	free(s.cross.at);
	free(s.next.at);
	free(s.set.at);
	family_free(&s.states);
	family_free(&s.accepts);
	return error;
}

/* ---- minimisation: Moore's refinement, in which only states with a successor that moved are looked at again, and the largest part of a
 * block keeps its number (Hopcroft 1971; Paige and Tarjan 1987). Rows are compared sparse: a default, and what differs from it.
 */

struct partition {
	const struct raw *raw;
	uint32_t n;
	uint32_t *block;               /* by state */
	uint32_t *element, *place;     /* states by block, and where each stands */
	uint32_t *start, *end, *dirty; /* by block: its elements, how many of them, from the first on, are dirty */
	uint32_t n_blocks;
	uint32_t *before_first, *before; /* by state: those with a row that leads there */
	struct words touched, moved, rows, row_first, group_of, group_row, group_count, order;
};

/* Row of a state over blocks, appended to p->rows: the default, then byte and block of what differs. The default is the most frequent target,
 * of equals that of the lowest byte.
 */
static int row_append(struct partition *p, uint32_t state)
{
	const struct raw *raw = p->raw;
	uint32_t from = raw->first.at[state], to = raw->first.at[state + 1], usual = p->block[raw->defaults.at[state]], i, k, kept = 0;
	size_t at;

	if (words_reserve(&p->rows, 1 + 512))
		return -ENOMEM;
	at = p->rows.n + 1;
	for (i = from; i < to; i++) {
		uint32_t target = p->block[raw->targets.at[i]];

		if (target == usual)
			continue;
		p->rows.at[at + 2 * kept] = raw->bytes.at[i];
		p->rows.at[at + 2 * kept + 1] = target;
		kept++;
	}
	if (kept >= 128) {
		uint32_t full[256], sorted[256], best = 0, best_first = 256;

		for (i = 0; i < 256; i++)
			full[i] = usual;
		for (i = 0; i < kept; i++)
			full[p->rows.at[at + 2 * i]] = p->rows.at[at + 2 * i + 1];
		memcpy(sorted, full, sizeof(full));
		qsort(sorted, 256, sizeof(*sorted), compare_words);
		for (i = 0; i < 256; i = k) {
			uint32_t first;

			for (k = i; k < 256 && sorted[k] == sorted[i];)
				k++;
			for (first = 0; full[first] != sorted[i];)
				first++;
			if (k - i > best || (k - i == best && first < best_first)) {
				best = k - i;
				best_first = first;
			}
		}
		usual = full[best_first];
		for (i = kept = 0; i < 256; i++) {
			if (full[i] == usual)
				continue;
			p->rows.at[at + 2 * kept] = i;
			p->rows.at[at + 2 * kept + 1] = full[i];
			kept++;
		}
	}
	p->rows.at[at - 1] = usual;
	p->rows.n = at + 2 * kept;
	return 0;
}

static void swap_elements(struct partition *p, uint32_t one, uint32_t other)
{
	uint32_t a = p->element[one], b = p->element[other];

	p->element[one] = b;
	p->element[other] = a;
	p->place[b] = one;
	p->place[a] = other;
}

static int mark_dirty(struct partition *p, uint32_t state)
{
	uint32_t block = p->block[state], limit = p->start[block] + p->dirty[block];

	if (p->place[state] < limit || p->end[block] - p->start[block] < 2)
		return 0;
	if (!p->dirty[block] && words_put(&p->touched, block))
		return -ENOMEM;
	swap_elements(p, p->place[state], limit);
	p->dirty[block]++;
	return 0;
}

/* Gives each dirty state of a block, and the others together, the number of the group with its row. Rows are those of the round's beginning. */
static int group_rows(struct partition *p, uint32_t block, struct table *table)
{
	uint32_t start = p->start[block], dirty = p->dirty[block], size = p->end[block] - start, i;
	uint32_t rows = dirty + (dirty < size), base = p->group_row.n;
	size_t slot;

	for (i = 0; i < rows; i++) {
		/* The last is that of all which are not dirty: none of their successors has moved, so they still agree. */
		size_t at = p->rows.n, length;
		uint32_t group;
		int error = row_append(p, p->element[start + i]);

		if (error)
			return error;
		length = p->rows.n - at;
		slot = (hash_bytes(p->rows.at + at, length * sizeof(uint32_t), block)) & (table->room - 1);
		for (; (group = table->slot[slot]) != NONE; slot = (slot + 1) & (table->room - 1)) {
			size_t other = p->row_first.at[p->group_row.at[group]];

			if (group >= base && p->row_first.at[p->group_row.at[group] + 1] - other == length &&
			    !memcmp(p->rows.at + other, p->rows.at + at, length * sizeof(uint32_t)))
				break;
		}
		if (group == NONE) {
			group = table->slot[slot] = p->group_row.n;
			if (words_put(&p->group_row, p->row_first.n - 1) || words_put(&p->group_count, 0) || words_put(&p->row_first, p->rows.n))
				return -ENOMEM;
		} else {
			p->rows.n = at;
		}
		p->group_count.at[group] += i < dirty ? 1 : size - dirty;
		if (words_put(&p->group_of, group))
			return -ENOMEM;
	}
	return 0;
}

/* Cuts a block by the groups from `base` to `top`; `of` are those of its dirty states, then that of the rest. */
static int split_block(struct partition *p, uint32_t block, const uint32_t *of, uint32_t base, uint32_t top)
{
	uint32_t start = p->start[block], dirty = p->dirty[block], size = p->end[block] - start, groups = top - base, keeps = base, i, at, rest = NONE;
	struct words *order = &p->order;

	p->dirty[block] = 0;
	if (groups < 2)
		return 0;
	if (dirty < size)
		rest = of[dirty];
	for (i = base; i < top; i++)
		if (p->group_count.at[i] > p->group_count.at[keeps])
			keeps = i;
	/* The dirty states by group, those that belong to the rest last, beside it. */
	order->n = 0;
	if (words_fill(order, 0, groups + 1 + dirty))
		return -ENOMEM;
	for (i = 0; i < dirty; i++)
		if (of[i] != rest)
			order->at[of[i] - base + 1]++;
	for (i = 1; i <= groups; i++)
		order->at[i] += order->at[i - 1];
	at = order->at[groups];
	for (i = 0; i < dirty; i++)
		order->at[groups + 1 + (of[i] == rest ? at++ : order->at[of[i] - base]++)] = p->element[start + i];
	for (i = 0; i < dirty; i++) {
		p->element[start + i] = order->at[groups + 1 + i];
		p->place[p->element[start + i]] = start + i;
	}
	/* order[g] is now the end of group g; the rest reaches to the end of the block. */
	for (i = base, at = start; i < top; i++) {
		uint32_t end, number, k;

		if (i == rest)
			continue;
		end = start + order->at[i - base];
		number = i == keeps ? block : p->n_blocks++;
		p->start[number] = at;
		p->end[number] = end;
		p->dirty[number] = 0;
		for (k = at; number != block && k < end; k++)
			if (words_put(&p->moved, p->element[k]) || words_put(&p->moved, number))
				return -ENOMEM;
		at = end;
	}
	if (rest != NONE) {
		uint32_t number = rest == keeps ? block : p->n_blocks++, k;

		p->start[number] = at;
		p->end[number] = start + size;
		p->dirty[number] = 0;
		for (k = at; number != block && k < start + size; k++)
			if (words_put(&p->moved, p->element[k]) || words_put(&p->moved, number))
				return -ENOMEM;
	}
	return 0;
}

static int refine_round(struct partition *p)
{
	struct words blocks = p->touched, bases = { 0 };
	size_t i, total = 0, at = 0;
	struct table table = { 0 };
	int error = 0;

	p->touched = (struct words){ 0 };
	p->moved.n = p->rows.n = p->group_of.n = p->group_row.n = p->group_count.n = p->row_first.n = 0;
	for (i = 0; i < blocks.n; i++)
		total += p->dirty[blocks.at[i]] + 1;
	error = table_make(&table, total);
	if (!error)
		error = words_put(&p->row_first, 0);
	for (i = 0; i < blocks.n && !error; i++) {
		error = words_put(&bases, p->group_row.n);
		if (!error)
			error = group_rows(p, blocks.at[i], &table);
	}
	if (!error)
		error = words_put(&bases, p->group_row.n);
	for (i = 0; i < blocks.n && !error; i++) {
		uint32_t block = blocks.at[i], dirty = p->dirty[block], size = p->end[block] - p->start[block];

		error = split_block(p, block, p->group_of.at + at, bases.at[i], bases.at[i + 1]);
		at += dirty + (dirty < size);
	}
	for (i = 0; i < p->moved.n && !error; i += 2)
		p->block[p->moved.at[i]] = p->moved.at[i + 1];
	for (i = 0; i < p->moved.n && !error; i += 2) {
		uint32_t state = p->moved.at[i], k;

		for (k = p->before_first[state]; k < p->before_first[state + 1] && !error; k++)
			error = mark_dirty(p, p->before[k]);
	}
	table_free(&table);
	free(blocks.at);
	free(bases.at);
	return error;
}

static int partition_begin(struct partition *p)
{
	const struct raw *raw = p->raw;
	uint32_t n = p->n, sets = raw->set_first.n - 1, state, i, *fill;
	int error = 0;

	fill = calloc((sets > n ? sets : n) + 2, sizeof(*fill));
	if (!fill)
		return -ENOMEM;
	for (state = 0; state < n; state++)
		fill[raw->accept.at[state] + 1]++;
	for (i = 0; i < sets; i++)
		fill[i + 1] += fill[i];
	for (state = 0; state < n; state++) {
		p->place[state] = fill[raw->accept.at[state]]++;
		p->element[p->place[state]] = state;
		p->block[state] = raw->accept.at[state];
	}
	for (i = 0; i < sets; i++) {
		p->start[i] = i ? fill[i - 1] : 0;
		p->end[i] = fill[i];
	}
	p->n_blocks = sets;
	memset(fill, 0, (n + 2) * sizeof(*fill));
	for (i = 0; i < raw->targets.n; i++)
		p->before_first[raw->targets.at[i] + 1]++;
	for (state = 0; state < n; state++)
		p->before_first[raw->defaults.at[state] + 1]++;
	for (state = 0; state < n; state++)
		p->before_first[state + 1] += p->before_first[state];
	for (state = 0; state < n; state++) {
		uint32_t target = raw->defaults.at[state];

		p->before[p->before_first[target] + fill[target]++] = state;
		for (i = raw->first.at[state]; i < raw->first.at[state + 1]; i++) {
			target = raw->targets.at[i];
			p->before[p->before_first[target] + fill[target]++] = state;
		}
	}
	free(fill);
	for (state = 0; state < n && !error; state++)
		error = mark_dirty(p, state);
	return error;
}

static void partition_free(struct partition *p)
{
	struct words *all[] = { &p->touched, &p->moved, &p->rows, &p->row_first, &p->group_of, &p->group_row, &p->group_count, &p->order };
	size_t i;

	for (i = 0; i < sizeof(all) / sizeof(*all); i++)
		free(all[i]->at);
	free(p->block);
	free(p->element);
	free(p->place);
	free(p->start);
	free(p->end);
	free(p->dirty);
	free(p->before_first);
	free(p->before);
}

static int partition_make(struct partition *p, const struct raw *raw)
{
	uint32_t n = raw->defaults.n;
	size_t blocks = (size_t)n + raw->set_first.n;
	int error;

	p->raw = raw;
	p->n = n;
	p->block = malloc(n * sizeof(uint32_t));
	p->element = malloc(n * sizeof(uint32_t));
	p->place = malloc(n * sizeof(uint32_t));
	p->start = calloc(blocks, sizeof(uint32_t));
	p->end = calloc(blocks, sizeof(uint32_t));
	p->dirty = calloc(blocks, sizeof(uint32_t));
	p->before_first = calloc((size_t)n + 1, sizeof(uint32_t));
	p->before = malloc((raw->targets.n + n) * sizeof(uint32_t));
	if (!p->block || !p->element || !p->place || !p->start || !p->end || !p->dirty || !p->before_first || !p->before)
		return -ENOMEM;
	error = partition_begin(p);
	while (!error && p->touched.n)
		error = refine_round(p);
	return error;
}

/* ---- the result: blocks as states, numbered depth first from the start, so that neighbours lie together ---- */

void bpfence_automaton_free(struct bpfence_automaton *automaton)
{
	if (!automaton)
		return;
	free(automaton->defaults);
	free(automaton->first);
	free(automaton->bytes);
	free(automaton->targets);
	free(automaton->accept);
	free(automaton->class_first);
	free(automaton->members);
	free(automaton);
}

struct finish {
	uint32_t *number;      /* by block: its state */
	struct words order, row_first, stack, bytes, targets, accept, class_first, members, class_of;
};

static int finish_order(struct partition *p, struct finish *f)
{
	if (words_put(&f->stack, p->block[p->raw->start]))
		return -ENOMEM;
	while (f->stack.n) {
		uint32_t block = f->stack.at[--f->stack.n];
		size_t at = p->rows.n, k;

		if (f->number[block] != NONE)
			continue;
		f->number[block] = f->order.n;
		if (words_put(&f->order, block) || words_put(&f->row_first, at) || row_append(p, p->element[p->start[block]]))
			return -ENOMEM;
		for (k = p->rows.n; k > at + 1; k -= 2)
			if (f->number[p->rows.at[k - 1]] == NONE && words_put(&f->stack, p->rows.at[k - 1]))
				return -ENOMEM;
		if (f->number[p->rows.at[at]] == NONE && words_put(&f->stack, p->rows.at[at]))
			return -ENOMEM;
	}
	return words_put(&f->row_first, p->rows.n);
}

/* The set that a class stands for, while classes are sorted. */
struct class_set {
	const uint32_t *members;
	uint32_t n, set;
};

static int compare_sets(const void *one, const void *other)
{
	const struct class_set *a = one, *b = other;
	uint32_t i;

	for (i = 0; i < a->n && i < b->n; i++)
		if (a->members[i] != b->members[i])
			return a->members[i] < b->members[i] ? -1 : 1;
	return a->n < b->n ? -1 : a->n > b->n;
}

/* Classes in the order of their patterns, so that another pattern in the place of one changes no other's class; 0 and 1 are those of nothing. */
static int finish_classes(struct partition *p, struct finish *f)
{
	const struct raw *raw = p->raw;
	uint32_t i, n = 0, sets = raw->set_first.n - 1;
	struct class_set *classes = malloc(sets * sizeof(*classes));
	int error = -ENOMEM;

	if (!classes || words_fill(&f->class_of, NONE, sets) || words_fill(&f->class_first, 0, 2))
		goto done;
	f->class_of.at[0] = 1;
	for (i = 0; i < f->order.n; i++) {
		uint32_t set = raw->accept.at[p->element[p->start[f->order.at[i]]]];

		if (f->class_of.at[set] != NONE)
			continue;
		f->class_of.at[set] = 0;
		classes[n++] = (struct class_set){ raw->sets.at + raw->set_first.at[set], raw->set_first.at[set + 1] - raw->set_first.at[set], set };
	}
	if (n)
		qsort(classes, n, sizeof(*classes), compare_sets);
	for (i = 0; i < n; i++) {
		f->class_of.at[classes[i].set] = i + 2;
		if (words_put(&f->class_first, f->members.n) || words_append(&f->members, classes[i].members, classes[i].n))
			goto done;
	}
	for (i = 0; i < f->order.n; i++)
		if (words_put(&f->accept, f->class_of.at[raw->accept.at[p->element[p->start[f->order.at[i]]]]]))
			goto done;
	error = words_put(&f->class_first, f->members.n);
done:
	free(classes);
	return error;
}

static uint32_t *taken(struct words *w)
{
	uint32_t *at = w->at ? w->at : malloc(sizeof(*at));

	w->at = NULL;
	return at;
}

static int finish_write(struct partition *p, struct finish *f, struct bpfence_automaton *out)
{
	uint32_t n = f->order.n, i;
	size_t k, exceptions = 0, total = (p->rows.n - n) / 2;

	out->n_states = n;
	out->n_exceptions = total;
	out->n_classes = f->class_first.n - 1;
	out->n_members = f->members.n;
	out->defaults = malloc((n + 1) * sizeof(uint32_t));
	out->first = malloc((n + 1) * sizeof(uint32_t));
	out->bytes = malloc(total + 1);
	out->targets = malloc((total + 1) * sizeof(uint32_t));
	if (!out->defaults || !out->first || !out->bytes || !out->targets)
		return -ENOMEM;
	for (i = 0; i < n; i++) {
		out->defaults[i] = f->number[p->rows.at[f->row_first.at[i]]];
		out->first[i] = exceptions;
		for (k = f->row_first.at[i] + 1; k < f->row_first.at[i + 1]; k += 2) {
			out->bytes[exceptions] = p->rows.at[k];
			out->targets[exceptions++] = f->number[p->rows.at[k + 1]];
		}
	}
	out->first[n] = exceptions;
	out->accept = taken(&f->accept);
	out->class_first = taken(&f->class_first);
	out->members = taken(&f->members);
	return out->accept && out->class_first && out->members ? 0 : -ENOMEM;
}

static int finish(struct partition *p, struct bpfence_automaton *out)
{
	struct finish f = { 0 };
	int error = -ENOMEM;

	p->rows.n = 0;
	f.number = malloc(p->n_blocks * sizeof(uint32_t));
	if (f.number) {
		memset(f.number, 0xff, p->n_blocks * sizeof(uint32_t));
		error = finish_order(p, &f);
	}
	if (!error)
		error = finish_classes(p, &f);
	if (!error)
		error = finish_write(p, &f, out);
	free(f.number);
	free(f.order.at);
	free(f.row_first.at);
	free(f.stack.at);
	free(f.bytes.at);
	free(f.targets.at);
	free(f.accept.at);
	free(f.class_first.at);
	free(f.members.at);
	free(f.class_of.at);
	return error;
}

/* The automaton of `n` programs, that of pattern i ending at text + ends[i]. `states`: the most before minimisation; `room`: the most members
 * that their sets have together; `first`: a string is of the class of the patterns that its shortest beginning of any class matches.
 */
int bpfence_automaton_build(const uint8_t *text, const uint32_t *ends, uint32_t n, uint32_t states, uint64_t room, int first,
			    struct bpfence_automaton **result)
{
	struct bpfence_automaton *out = calloc(1, sizeof(*out));
	struct partition p = { 0 };
	struct nfa nfa = { 0 };
	struct raw raw = { 0 };
	int error = out ? table_make(&nfa.shared, n) : -ENOMEM;

	*result = NULL;
	if (!error)
		error = nfa_make(&nfa, text, ends, n);
	if (!error)
		error = determinise(&nfa, &raw, states ? states : 30000 + 2 * (uint32_t)nfa.loop.n, room, first);
	nfa_free(&nfa);
	if (!error)
		error = partition_make(&p, &raw);
	if (!error)
		error = finish(&p, out);
	partition_free(&p);
	raw_free(&raw);
	if (error)
		bpfence_automaton_free(out);
	else
		*result = out;
	return error;
}
