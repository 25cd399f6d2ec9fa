// SPDX-License-Identifier: Apache-2.0
/* Pattern programs in, one deterministic automaton over bytes out: the compiled twin of determinise.py, which says what is built and why.
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
	uint64_t hash = (seed + 1) * 0x9e3779b97f4a7c15ull; /* what is hashed is often the seed itself: they must not cancel out */
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
	case 'R':
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
	if (nfa->text[at] == 'R') {
		/* A node of its own, since texts from `node` on are shared with those that do not repeat. */
		error = nfa_node(nfa, 0, &inside);
		if (!error)
			error = nfa_link(nfa, &nfa->epsilon, node, inside, 0, 0);
		if (!error)
			error = nfa_link(nfa, &nfa->epsilon, inside, *end_node, 0, 0);
		return error ? error : extend_either(nfa, inside, inside, at, depth);
	}
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
	bool alone; /* sets of one number are found by whoever adds them */
	struct table table;
};

/* One that is not there yet. */
static int family_add(struct family *f, const uint32_t *set, size_t n, uint32_t hash, uint32_t *number)
{
	*number = f->hash.n;
	return words_append(f->members, set, n) || words_put(f->first, f->members->n) || words_put(&f->hash, hash) ? -ENOMEM : 0;
}

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
			if (f->alone && f->first->at[i + 1] - f->first->at[i] == 1)
				continue;
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
	f->table.slot[slot] = f->hash.n;
	f->table.used++;
	return family_add(f, set, n, (uint32_t)hash, number);
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
	uint32_t *alone;       /* by node: the state that is this node alone, as nearly all are in a trie */
	uint32_t *mark, epoch; /* by node */
	uint32_t budget;
	bool first;  /* what was found first counts: an accepting state is left no more */
	size_t room; /* for the members of all sets */
};

static int subset_state(struct subset *s, const struct words *nodes, uint32_t *number)
{
	bool alone = nodes->n == 1;
	int error;

	if (alone && s->alone[*nodes->at] != NONE) {
		*number = s->alone[*nodes->at];
		return 0;
	}
	error = alone ? family_add(&s->states, nodes->at, 1, 0, number) : family_put(&s->states, nodes->at, nodes->n, number);
	if (error)
		return error;
	if (alone)
		s->alone[*nodes->at] = *number;
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
	if (!kept) /* set 0, as of most */
		return words_put(&s->raw->accept, 0);
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
	int error;

	s->states.alone = true;
	error = family_make(&s->states, &s->state_first, &s->state_nodes);
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
	s.alone = malloc(nfa->loop.n * sizeof(*s.alone));
	if (s.mark && s.alone) {
		memset(s.alone, 0xff, nfa->loop.n * sizeof(*s.alone));
		error = subset_construct(&s);
	}
	for (i = 0; i < 256; i++)
		free(s.by_byte[i].at);
	free(s.mark);
	free(s.alone);
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
