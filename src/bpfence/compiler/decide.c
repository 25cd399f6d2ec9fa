// SPDX-License-Identifier: Apache-2.0
/* Clauses in, the decision diagrams of one group out: the compiled twin of `diagram.Builder`, which says what is built and why.
 *
 * What becomes of a clause behind its first dimension is asked of Python, once for each (`ask`): conditions are not known here. A child is a
 * node's number, or ~ of a leaf's or a row's.
 */
#define MANY 64
#define MANY_CONFIRMED 16
#define MAX_DEPTH 4096
#define UNKNOWN INT32_MIN
#define NO_DIMENSION (1u << 30)
#define NOTHING (-1) /* ~0: leaf 0 is no rule, row 0 has none for any event */
#define EVENTS 256
#define ASK_PARTS 0 /* for bpfence_diagrams_parts */
#define ASK_BARE 1  /* for bpfence_diagrams_bare */

struct bpfence_dimension {
	uint8_t joined, moved; /* moved: it stands once more behind all others */
};

struct bpfence_rule {
	int32_t severity;
	uint32_t confirmed;
};

struct bpfence_group {
	uint32_t n_nodes, n_leaves, n_rows;
	const uint32_t *node_first, *nodes;  /* dimension, uncertain, default, and class and child of each exception */
	const uint32_t *leaf_first, *leaves; /* rules, and NONE behind those that only may match */
	const uint32_t *row_first, *rows;    /* event and diagram of those that have one */
	int32_t subject;
	uint64_t edges;
};

struct clause {
	uint32_t rule, first, mask; /* of the dimensions of its condition the first; the number of its set of events */
	uint32_t bare;              /* the same for one event's diagram; NONE: not asked for yet */
	uint32_t parts;             /* NONE: not asked for yet */
};

/* A clause behind its first dimension; NONE is false. */
struct parts {
	uint32_t base, some;
	uint32_t first, n; /* of `pieces` */
};

struct piece {
	uint32_t value;
	size_t first, end; /* of `piece_classes` */
};

/* Clauses with the same first dimension. All by their places in `pool`. */
struct together {
	size_t bases, some, changed, blocks, classes;
	uint32_t n_bases, n_some, n_changed, n_blocks, n_classes;
};

struct bpfence_diagrams {
	int (*ask)(void *whom, int what, uint32_t clause);
	void *whom;
	struct bpfence_dimension *dimensions;
	struct bpfence_rule *rules;
	uint32_t n_dimensions, subjects, n_rules, n_events;
	uint64_t budget, edges;
	uint32_t depth;

	struct clause *clauses;
	struct parts *parts;
	struct piece *pieces;
	struct together *togethers;
	uint64_t (*masks)[EVENTS / 64];
	size_t n_clauses, clause_room, n_parts, part_room, n_pieces, piece_room, n_togethers, together_room, n_masks, mask_room;
	struct words piece_classes;
	uint32_t most_class;

	struct words state_first, states, node_first, nodes, leaf_first, leaves, row_first, rows;
	struct family state, node, leaf, row;
	struct words memo[2]; /* of events, of the subject: by 2 * state + uncertain */
	struct words of_state; /* its `togethers` */
	struct words stack, pool;
	struct words of_class, touched, parent, of_piece, follow, follow_at, block_of; /* of `refine` */
	int32_t subject_root;
};

static int make_room(void *array, size_t *room, size_t n, size_t size)
{
	void **at = array;
	size_t more = *room ? 2 * *room : 64;
	void *made;

	if (n < *room)
		return 0;
	if (more > SIZE_MAX / 2 / size)
		return -ENOMEM;
	made = realloc(*at, more * size);
	if (!made)
		return -ENOMEM;
	*at = made;
	*room = more;
	return 0;
}

void bpfence_diagrams_free(struct bpfence_diagrams *d)
{
	struct words *held[] = { &d->piece_classes, &d->state_first, &d->states, &d->node_first, &d->nodes, &d->leaf_first,
				 &d->leaves, &d->row_first, &d->rows, &d->memo[0], &d->memo[1], &d->of_state, &d->stack, &d->pool,
				 &d->of_class, &d->touched, &d->parent, &d->of_piece, &d->follow, &d->follow_at, &d->block_of };
	size_t i;

	for (i = 0; i < sizeof(held) / sizeof(*held); i++)
		free(held[i]->at);
	family_free(&d->state);
	family_free(&d->node);
	family_free(&d->leaf);
	family_free(&d->row);
	free(d->dimensions);
	free(d->rules);
	free(d->clauses);
	free(d->parts);
	free(d->pieces);
	free(d->togethers);
	free(d->masks);
	free(d);
}

static void *copied(const void *from, size_t n, size_t size)
{
	void *made = malloc(n * size + 1);

	if (made && n)
		memcpy(made, from, n * size);
	return made;
}

struct bpfence_diagrams *bpfence_diagrams_new(uint32_t n_dimensions, const struct bpfence_dimension *dimensions, uint32_t subjects, uint32_t n_rules,
					      const struct bpfence_rule *rules, uint32_t n_events, uint64_t budget,
					      int (*ask)(void *whom, int what, uint32_t clause), void *whom)
{
	struct bpfence_diagrams *d = n_events <= EVENTS ? calloc(1, sizeof(*d)) : NULL;

	if (!d)
		return NULL;
	d->ask = ask;
	d->whom = whom;
	d->dimensions = copied(dimensions, n_dimensions, sizeof(*dimensions));
	d->rules = copied(rules, n_rules, sizeof(*rules));
	d->n_dimensions = n_dimensions;
	d->subjects = subjects;
	d->n_rules = n_rules;
	d->n_events = n_events;
	d->budget = budget;
	d->node.first = &d->node_first; /* its number 0 is no empty node */
	d->node.members = &d->nodes;
	if (d->dimensions && d->rules && !family_make(&d->state, &d->state_first, &d->states) && !words_put(&d->node_first, 0) &&
	    !family_make(&d->leaf, &d->leaf_first, &d->leaves) && !family_make(&d->row, &d->row_first, &d->rows))
		return d;
	bpfence_diagrams_free(d);
	return NULL;
}

/* ---- what Python tells ---- */

int bpfence_diagrams_mask(struct bpfence_diagrams *d, const uint64_t *words)
{
	if (make_room(&d->masks, &d->mask_room, d->n_masks, sizeof(*d->masks)))
		return -ENOMEM;
	memcpy(d->masks[d->n_masks++], words, sizeof(*d->masks));
	return 0;
}

int bpfence_diagrams_clause(struct bpfence_diagrams *d, uint32_t rule, uint32_t first, uint32_t mask)
{
	if (rule >= d->n_rules || mask >= d->n_masks || (first >= d->n_dimensions && first != NO_DIMENSION))
		return -EINVAL;
	if (make_room(&d->clauses, &d->clause_room, d->n_clauses, sizeof(*d->clauses)))
		return -ENOMEM;
	d->clauses[d->n_clauses++] = (struct clause){ rule, first, mask, NONE, NONE };
	return 0;
}

static bool is_clause(const struct bpfence_diagrams *d, uint32_t number) { return number == NONE || number < d->n_clauses; }

int bpfence_diagrams_bare(struct bpfence_diagrams *d, uint32_t number, uint32_t bare)
{
	if (number >= d->n_clauses || bare >= d->n_clauses)
		return -EINVAL;
	d->clauses[number].bare = bare;
	return 0;
}

int bpfence_diagrams_parts(struct bpfence_diagrams *d, uint32_t number, uint32_t base, uint32_t some, uint32_t n, const uint32_t *values,
			   const uint32_t *ends, const uint32_t *classes)
{
	uint32_t i, from = 0;

	if (number >= d->n_clauses || !is_clause(d, base) || !is_clause(d, some))
		return -EINVAL;
	if (make_room(&d->parts, &d->part_room, d->n_parts, sizeof(*d->parts)))
		return -ENOMEM;
	d->parts[d->n_parts] = (struct parts){ base, some, d->n_pieces, n };
	for (i = 0; i < n; from = ends[i++]) {
		if (!is_clause(d, values[i]) || ends[i] < from)
			return -EINVAL;
		if (make_room(&d->pieces, &d->piece_room, d->n_pieces, sizeof(*d->pieces)))
			return -ENOMEM;
		d->pieces[d->n_pieces++] = (struct piece){ values[i], d->piece_classes.n + from, d->piece_classes.n + ends[i] };
	}
	for (i = 0; i < from; i++) {
		if (classes[i] >= MAX_CLASSES)
			return -EINVAL;
		if (classes[i] > d->most_class)
			d->most_class = classes[i];
	}
	if (words_append(&d->piece_classes, classes, from))
		return -ENOMEM;
	d->clauses[number].parts = d->n_parts++;
	return 0;
}

static int asked(struct bpfence_diagrams *d, int what, uint32_t number)
{
	int error = d->ask(d->whom, what, number);

	if (error)
		return error;
	return (what == ASK_PARTS ? d->clauses[number].parts : d->clauses[number].bare) == NONE ? -EINVAL : 0;
}

/* ---- sets on the stack ---- */

static int spend(struct bpfence_diagrams *d, uint64_t edges)
{
	d->edges += edges;
	return d->edges > d->budget ? -E2BIG : 0;
}

/* Sorts what is on the stack from `from` on, each once. */
static void stack_set(struct bpfence_diagrams *d, size_t from)
{
	uint32_t *at = d->stack.at + from;
	size_t i, n = d->stack.n - from, out = 0;

	sort_words(at, n);
	for (i = 0; i < n; i++)
		if (!out || at[out - 1] != at[i])
			at[out++] = at[i];
	d->stack.n = from + out;
}

/* Takes a set from the stack: the state. */
static int stack_state(struct bpfence_diagrams *d, size_t from, uint32_t *state)
{
	int error = family_put(&d->state, d->stack.at + from, d->stack.n - from, state);

	d->stack.n = from;
	return error;
}

static int push_state(struct bpfence_diagrams *d, uint32_t state)
{
	size_t from = d->state_first.at[state], n = d->state_first.at[state + 1] - from;

	return words_append(&d->stack, d->states.at + from, n);
}

static size_t state_size(const struct bpfence_diagrams *d, uint32_t state) { return d->state_first.at[state + 1] - d->state_first.at[state]; }

/* ---- leaves ---- */

/* Takes rules from the stack. */
static int leaf_put(struct bpfence_diagrams *d, size_t from, bool uncertain, int32_t *child)
{
	uint32_t number, before = d->leaf.hash.n;
	size_t n;
	int error;

	stack_set(d, from);
	n = d->stack.n - from;
	if (uncertain && words_put(&d->stack, NONE))
		return -ENOMEM;
	error = family_put(&d->leaf, d->stack.at + from, d->stack.n - from, &number);
	d->stack.n = from;
	*child = ~(int32_t)number;
	return error ? error : number == before ? spend(d, 1 + n / 8)
						: 0;
}

static int leaf_of(struct bpfence_diagrams *d, uint32_t state, bool uncertain, int32_t *child)
{
	size_t from = d->stack.n, i;

	if (push_state(d, state))
		return -ENOMEM;
	for (i = from; i < d->stack.n; i++)
		d->stack.at[i] = d->clauses[d->stack.at[i]].rule;
	return leaf_put(d, from, uncertain, child);
}

/* The most severe rule of a state, of these the first. */
static int bound(struct bpfence_diagrams *d, uint32_t state, int32_t *child)
{
	uint32_t best = NONE, rule;
	size_t i, from = d->stack.n;

	*child = NOTHING;
	for (i = d->state_first.at[state]; i < d->state_first.at[state + 1]; i++) {
		rule = d->clauses[d->states.at[i]].rule;
		if (best == NONE || d->rules[rule].severity > d->rules[best].severity ||
		    (d->rules[rule].severity == d->rules[best].severity && rule < best))
			best = rule;
	}
	if (best == NONE)
		return 0;
	return words_put(&d->stack, best) ? -ENOMEM : leaf_put(d, from, true, child);
}

/* ---- clauses with the same first dimension ---- */

/* One more piece: its classes go from the combination of pieces that they are in to the next. Combination 0 is none. */
static int refine_piece(struct bpfence_diagrams *d, uint32_t number, const struct piece *piece)
{
	size_t i;

	for (i = piece->first; i < piece->end; i++) {
		uint32_t class = d->piece_classes.at[i], before = d->of_class.at[class];

		if (!before && words_put(&d->touched, class))
			return -ENOMEM;
		if (d->follow_at.at[before] != number) {
			d->follow_at.at[before] = number;
			d->follow.at[before] = d->parent.n;
			if (words_put(&d->parent, before) || words_put(&d->of_piece, number) || words_put(&d->follow_at, 0) ||
			    words_put(&d->follow, 0))
				return -ENOMEM;
		}
		d->of_class.at[class] = d->follow.at[before];
	}
	return 0;
}

static int refine_begin(struct bpfence_diagrams *d)
{
	if (d->of_class.n <= d->most_class && words_fill(&d->of_class, 0, d->most_class + 1 - d->of_class.n))
		return -ENOMEM;
	d->touched.n = d->parent.n = d->of_piece.n = d->follow.n = d->follow_at.n = 0;
	return words_put(&d->parent, 0) || words_put(&d->of_piece, 0) || words_put(&d->follow, 0) || words_put(&d->follow_at, 0) ? -ENOMEM : 0;
}

/* The classes in ascending order: qsort costs more than to look at all, where they are many. */
static void touched_sort(struct bpfence_diagrams *d)
{
	size_t n = d->touched.n, i, out = 0;
	uint32_t low = UINT32_MAX, high = 0;

	for (i = 0; i < n; i++) {
		low = d->touched.at[i] < low ? d->touched.at[i] : low;
		high = d->touched.at[i] > high ? d->touched.at[i] : high;
	}
	if (n < 32 || (high - low) / 16 > n) {
		sort_words(d->touched.at, n);
		return;
	}
	for (; out < n; low++)
		if (d->of_class.at[low])
			d->touched.at[out++] = low;
}

/* Combinations as they are found by ascending class: the blocks. Of each its changes: the clause, what it is elsewhere, what it is here. */
static int blocks_write(struct bpfence_diagrams *d, struct together *t, size_t pieces)
{
	size_t i, changes = d->stack.n;
	uint32_t combination, at, block;

	touched_sort(d);
	d->block_of.n = 0;
	if (words_fill(&d->block_of, NONE, d->parent.n))
		return -ENOMEM;
	t->classes = d->pool.n;
	t->n_classes = d->touched.n;
	for (i = 0; i < d->touched.n; i++) {
		combination = d->of_class.at[d->touched.at[i]];
		block = d->block_of.at[combination];
		if (block == NONE) {
			block = d->block_of.at[combination] = t->n_blocks++;
			if (words_put(&d->stack, combination))
				return -ENOMEM;
		}
		if (words_put(&d->pool, d->touched.at[i]) || words_put(&d->pool, block))
			return -ENOMEM;
		d->of_class.at[d->touched.at[i]] = 0;
	}
	d->touched.n = 0;
	t->blocks = d->pool.n;
	if (words_fill(&d->pool, 0, t->n_blocks + 1))
		return -ENOMEM;
	for (i = 0; i < t->n_blocks; i++) {
		d->pool.at[t->blocks + i] = d->pool.n - t->blocks;
		for (at = d->stack.at[changes + i]; at; at = d->parent.at[at])
			if (words_append(&d->pool, d->stack.at + pieces + 3 * (d->of_piece.at[at] - 1), 3))
				return -ENOMEM;
	}
	d->pool.at[t->blocks + i] = d->pool.n - t->blocks;
	d->stack.n = changes;
	return 0;
}

/* What each clause of a state becomes. On the stack, for each piece: the clause, its base, its value. */
static int together_pieces(struct bpfence_diagrams *d, struct together *t, uint32_t state)
{
	size_t i, end = d->state_first.at[state + 1];
	uint32_t number, k, n = 0;
	int error;

	for (i = d->state_first.at[state]; i < end; i++) {
		number = d->states.at[i];
		if (d->clauses[number].parts == NONE && (error = asked(d, ASK_PARTS, number)))
			return error;
	}
	t->bases = d->pool.n;
	for (i = d->state_first.at[state]; i < end; i++) {
		const struct parts *parts = &d->parts[d->clauses[d->states.at[i]].parts];

		if (parts->base != NONE && (t->n_bases++, words_put(&d->pool, parts->base)))
			return -ENOMEM;
	}
	t->some = d->pool.n;
	for (i = d->state_first.at[state]; i < end; i++) {
		const struct parts *parts = &d->parts[d->clauses[d->states.at[i]].parts];

		if (parts->some != NONE && (t->n_some++, words_put(&d->pool, parts->some)))
			return -ENOMEM;
	}
	t->changed = d->pool.n;
	if (refine_begin(d))
		return -ENOMEM;
	for (i = d->state_first.at[state]; i < end; i++) {
		const struct parts *parts = &d->parts[d->clauses[d->states.at[i]].parts];
		uint32_t change[3] = { d->states.at[i], parts->base, 0 };

		if (parts->n && (t->n_changed++, words_append(&d->pool, change, 2)))
			return -ENOMEM;
		for (k = 0; k < parts->n; k++) {
			change[2] = d->pieces[parts->first + k].value;
			if (words_append(&d->stack, change, 3) || refine_piece(d, ++n, &d->pieces[parts->first + k]))
				return -ENOMEM;
		}
	}
	return 0;
}

/* Once for each state: its number among `togethers`. */
static int take_together(struct bpfence_diagrams *d, uint32_t state, uint32_t *number)
{
	struct together t = { 0 };
	size_t pieces = d->stack.n;
	int error;

	if (d->of_state.n <= state && words_fill(&d->of_state, NONE, d->state_first.n - d->of_state.n))
		return -ENOMEM;
	*number = d->of_state.at[state];
	if (*number != NONE)
		return 0;
	error = together_pieces(d, &t, state);
	if (!error)
		error = blocks_write(d, &t, pieces);
	d->stack.n = pieces;
	if (!error)
		error = make_room(&d->togethers, &d->together_room, d->n_togethers, sizeof(t));
	if (error)
		return error;
	*number = d->of_state.at[state] = d->n_togethers;
	d->togethers[d->n_togethers++] = t;
	return 0;
}

/* ---- decisions ---- */

static int descend(struct bpfence_diagrams *d, uint32_t state, bool uncertain, bool subject, int32_t *child);

static int32_t severity(const struct bpfence_diagrams *d, uint32_t clause) { return d->rules[d->clauses[clause].rule].severity; }

/* Whether for some class none of the most severe rules is left of all that are left for any, which are on the stack from `joined` on. */
static bool matters(const struct bpfence_diagrams *d, const struct together *t, size_t joined)
{
	int32_t top = INT32_MIN;
	size_t most = 0, gone = 0, i, at;
	const uint32_t *pool = d->pool.at;

	for (i = joined; i < d->stack.n; i++) {
		int32_t found = severity(d, d->stack.at[i]);

		most = found > top ? 1 : most + (found == top);
		top = found > top ? found : top;
	}
	for (i = 0; i < t->n_changed; i++)
		gone += pool[t->changed + 2 * i + 1] == NONE && severity(d, pool[t->changed + 2 * i]) == top;
	if (gone >= most)
		return true;
	for (i = 0; i < t->n_blocks; i++) {
		gone = 0;
		for (at = pool[t->blocks + i]; at < pool[t->blocks + i + 1]; at += 3)
			gone += pool[t->blocks + at + 2] == NONE && severity(d, pool[t->blocks + at]) == top;
		if (gone >= most)
			return true;
	}
	return false;
}

/* Whether what is uncertain already need not be told apart by one more dimension. */
static bool may_join(const struct bpfence_diagrams *d, uint32_t state, uint32_t dimension, const struct together *t, size_t joined)
{
	size_t n = state_size(d, state), i;
	bool all = n > MANY_CONFIRMED;

	for (i = d->state_first.at[state]; all && i < d->state_first.at[state + 1]; i++)
		all = d->rules[d->clauses[d->states.at[i]].rule].confirmed;
	return all || (n > MANY && d->dimensions[dimension].moved && !matters(d, t, joined));
}

/* One decision that is being made. Places are those on the stack. */
struct frame {
	uint32_t dimension, together;
	size_t kept, n_kept;
	size_t rest, n_rest; /* what is left where nothing is true, each once; and of how many it is that */
	size_t children;     /* by block */
};

static uint32_t *rest_count(struct bpfence_diagrams *d, const struct frame *f, uint32_t clause)
{
	const uint32_t *rest = d->stack.at + f->rest;
	size_t low = 0, high = f->n_rest;

	while (high - low > 1) {
		size_t middle = (low + high) / 2;

		if (rest[middle] <= clause)
			low = middle;
		else
			high = middle;
	}
	return d->stack.at + f->rest + f->n_rest + low;
}

static int push_rest(struct bpfence_diagrams *d, struct frame *f)
{
	const struct together *t = &d->togethers[f->together];
	size_t i;

	f->rest = d->stack.n;
	if (words_reserve(&d->stack, 2 * (f->n_kept + t->n_bases)))
		return -ENOMEM;
	words_append(&d->stack, d->stack.at + f->kept, f->n_kept);
	words_append(&d->stack, d->pool.at + t->bases, t->n_bases);
	stack_set(d, f->rest);
	f->n_rest = d->stack.n - f->rest;
	words_fill(&d->stack, 0, f->n_rest);
	for (i = 0; i < f->n_kept; i++)
		++*rest_count(d, f, d->stack.at[f->kept + i]);
	for (i = 0; i < t->n_bases; i++)
		++*rest_count(d, f, d->pool.at[t->bases + i]);
	return 0;
}

/* The rest with the changes of a block. */
static int changed(struct bpfence_diagrams *d, const struct frame *f, uint32_t block, uint32_t *state)
{
	const struct together *t = &d->togethers[f->together];
	const uint32_t *change, *first = d->pool.at + t->blocks + d->pool.at[t->blocks + block];
	const uint32_t *end = d->pool.at + t->blocks + d->pool.at[t->blocks + block + 1];
	size_t from = d->stack.n, news, i, k, n;
	uint32_t *at;

	if (words_reserve(&d->stack, f->n_rest + 2 * (end - first)))
		return -ENOMEM;
	for (change = first; change < end; change += 3) {
		if (change[1] != NONE)
			--*rest_count(d, f, change[1]);
		if (change[2] != NONE)
			d->stack.at[d->stack.n++] = change[2];
	}
	stack_set(d, from);
	news = d->stack.n - from;
	at = d->stack.at + d->stack.n;
	for (i = k = n = 0; i < f->n_rest; i++) {
		uint32_t clause = d->stack.at[f->rest + i];

		if (!d->stack.at[f->rest + f->n_rest + i])
			continue;
		while (k < news && d->stack.at[from + k] < clause)
			at[n++] = d->stack.at[from + k++];
		k += k < news && d->stack.at[from + k] == clause;
		at[n++] = clause;
	}
	while (k < news)
		at[n++] = d->stack.at[from + k++];
	for (change = first; change < end; change += 3)
		if (change[1] != NONE)
			++*rest_count(d, f, change[1]);
	d->stack.n = from;
	return family_put(&d->state, at, n, state);
}

static int row(struct bpfence_diagrams *d, uint32_t state, bool uncertain, bool only_bound, int32_t *child);

/* Takes the exceptions of a node and what comes before them from the stack. */
static int node_put(struct bpfence_diagrams *d, size_t from, int32_t *child)
{
	uint32_t number, before = d->node.hash.n;
	size_t n = (d->stack.n - from - 3) / 2;
	int error = family_put(&d->node, d->stack.at + from, d->stack.n - from, &number);

	d->stack.n = from;
	*child = number;
	return error ? error : number == before ? spend(d, 3 + n)
						: 0;
}

static int decide_node(struct bpfence_diagrams *d, const struct frame *f, uint32_t joined, int32_t usual, bool subject, int32_t *child)
{
	const struct together *t = &d->togethers[f->together];
	size_t from = d->stack.n, i;
	int32_t uncertain;
	int error;

	if (d->dimensions[f->dimension].joined)
		error = descend(d, joined, true, subject, &uncertain);
	else if (subject)
		error = row(d, joined, true, true, &uncertain);
	else
		error = bound(d, joined, &uncertain);
	t = &d->togethers[f->together];
	if (error)
		return error;
	if (words_reserve(&d->stack, 3 + 2 * (size_t)t->n_classes))
		return -ENOMEM;
	words_put(&d->stack, f->dimension);
	words_put(&d->stack, uncertain);
	words_put(&d->stack, usual);
	for (i = 0; i < t->n_classes; i++) {
		uint32_t to = d->stack.at[f->children + d->pool.at[t->classes + 2 * i + 1]];

		if ((int32_t)to != usual) {
			d->stack.at[d->stack.n++] = d->pool.at[t->classes + 2 * i];
			d->stack.at[d->stack.n++] = to;
		}
	}
	return node_put(d, from, child);
}

/* With the state's clauses that have another first dimension on the stack, and its `together`. `joined`: what is left for some class. */
static int decide_children(struct bpfence_diagrams *d, struct frame *f, uint32_t joined, bool uncertain, bool subject, int32_t *child)
{
	uint32_t block, n_blocks = d->togethers[f->together].n_blocks, state;
	bool same = true;
	int32_t usual, to;
	int error = push_rest(d, f);

	if (!error)
		error = family_put(&d->state, d->stack.at + f->rest, f->n_rest, &state);
	if (!error)
		error = descend(d, state, uncertain, subject, &usual);
	f->children = d->stack.n;
	if (!error)
		error = words_fill(&d->stack, 0, n_blocks);
	for (block = 0; !error && block < n_blocks; block++) {
		error = changed(d, f, block, &state);
		if (!error)
			error = descend(d, state, uncertain, subject, &to);
		if (error)
			break;
		d->stack.at[f->children + block] = to;
		same = same && to == usual;
	}
	if (error)
		return error;
	*child = usual;
	return same ? 0 : decide_node(d, f, joined, usual, subject, child);
}

/* The node of a state by its next dimension; its only child where all classes lead to the same. */
static int decide(struct bpfence_diagrams *d, uint32_t dimension, uint32_t state, bool uncertain, bool subject, int32_t *child)
{
	struct frame f = { .dimension = dimension };
	const struct together *t;
	size_t begin = d->stack.n, joined, i;
	uint32_t undecided, next;
	bool join;
	int error;

	if (push_state(d, state))
		return -ENOMEM;
	for (i = begin; i < d->stack.n; i++) /* first those that stay, then the others */
		if (d->clauses[d->stack.at[i]].first != dimension)
			d->stack.at[begin + f.n_kept++] = d->stack.at[i];
	f.kept = begin;
	d->stack.n = begin + f.n_kept;
	for (i = d->state_first.at[state]; i < d->state_first.at[state + 1]; i++)
		if (d->clauses[d->states.at[i]].first == dimension && words_put(&d->stack, d->states.at[i]))
			return -ENOMEM;
	error = stack_state(d, begin + f.n_kept, &undecided);
	if (!error)
		error = take_together(d, undecided, &f.together);
	if (error)
		return error;
	joined = d->stack.n;
	t = &d->togethers[f.together];
	if (words_reserve(&d->stack, f.n_kept + t->n_some))
		return -ENOMEM;
	words_append(&d->stack, d->stack.at + f.kept, f.n_kept);
	words_append(&d->stack, d->pool.at + t->some, t->n_some);
	join = uncertain && may_join(d, state, dimension, t, joined);
	stack_set(d, joined);
	error = stack_state(d, joined, &next);
	if (error)
		return error;
	error = join ? descend(d, next, true, subject, child) : decide_children(d, &f, next, uncertain, subject, child);
	d->stack.n = begin;
	return error;
}

/* ---- rows of the subject ---- */

/* Which of the `n` sets of events on the stack from `sets` on have an event, as bits. */
static void key_of(const struct bpfence_diagrams *d, size_t sets, size_t n, uint32_t event, uint32_t *key)
{
	size_t i;

	memset(key, 0, (n + 31) / 32 * sizeof(*key));
	for (i = 0; i < n; i++)
		if (d->masks[d->stack.at[sets + i]][event / 64] >> event % 64 & 1)
			key[i / 32] |= 1u << i % 32;
}

/* The diagram of one event. */
static int row_root(struct bpfence_diagrams *d, uint32_t state, uint32_t event, bool uncertain, bool only_bound, int32_t *root)
{
	size_t from = d->stack.n, i;
	uint32_t bare;

	if (words_reserve(&d->stack, state_size(d, state)))
		return -ENOMEM;
	for (i = d->state_first.at[state]; i < d->state_first.at[state + 1]; i++) {
		const struct clause *clause = &d->clauses[d->states.at[i]];

		if (d->masks[clause->mask][event / 64] >> event % 64 & 1)
			d->stack.at[d->stack.n++] = clause->bare;
	}
	stack_set(d, from);
	if (stack_state(d, from, &bare))
		return -ENOMEM;
	return only_bound ? bound(d, bare, root) : descend(d, bare, uncertain, false, root);
}

/* For each event with clauses its diagram, on the stack; events of the same clauses share one. */
static int row_roots(struct bpfence_diagrams *d, uint32_t state, bool uncertain, bool only_bound)
{
	size_t sets = d->stack.n, n, words, keys, out, i, n_keys = 0;
	uint32_t event, number;
	int32_t root;
	int error;

	for (i = d->state_first.at[state]; i < d->state_first.at[state + 1]; i++) {
		number = d->states.at[i];
		if (d->clauses[number].bare == NONE && (error = asked(d, ASK_BARE, number)))
			return error;
		if (words_put(&d->stack, d->clauses[number].mask))
			return -ENOMEM;
	}
	stack_set(d, sets);
	n = d->stack.n - sets;
	words = (n + 31) / 32;
	keys = d->stack.n; /* each: the bits, and the root */
	if (words_fill(&d->stack, 0, d->n_events * (words + 1)))
		return -ENOMEM;
	out = d->stack.n;
	for (event = 0; event < d->n_events; event++) {
		uint32_t *key = d->stack.at + keys + n_keys * (words + 1);
		bool any = false;

		key_of(d, sets, n, event, key);
		for (i = 0; i < words; i++)
			any |= key[i] != 0;
		if (!any)
			continue;
		for (i = 0; i < n_keys; i++)
			if (!memcmp(d->stack.at + keys + i * (words + 1), key, words * sizeof(*key)))
				break;
		if (i == n_keys) {
			error = row_root(d, state, event, uncertain, only_bound, &root);
			if (error)
				return error;
			d->stack.at[keys + n_keys++ * (words + 1) + words] = root;
		}
		root = d->stack.at[keys + i * (words + 1) + words];
		if (root != NOTHING && (words_put(&d->stack, event) || words_put(&d->stack, root)))
			return -ENOMEM;
	}
	memmove(d->stack.at + sets, d->stack.at + out, (d->stack.n - out) * sizeof(uint32_t));
	d->stack.n = sets + d->stack.n - out;
	return 0;
}

/* The subject's row: ~ of its number. */
static int row(struct bpfence_diagrams *d, uint32_t state, bool uncertain, bool only_bound, int32_t *child)
{
	size_t from = d->stack.n;
	uint32_t number, before;
	int error = row_roots(d, state, uncertain, only_bound);

	if (error)
		return error;
	before = d->row.hash.n;
	error = family_put(&d->row, d->stack.at + from, d->stack.n - from, &number);
	d->stack.n = from;
	*child = ~(int32_t)number;
	return error ? error : number == before ? spend(d, d->n_events)
						: 0;
}

/* ---- the walk ---- */

static int descend_new(struct bpfence_diagrams *d, uint32_t state, bool uncertain, bool subject, int32_t *child)
{
	uint32_t dimension = NO_DIMENSION, first;
	size_t i;
	int error;

	for (i = d->state_first.at[state]; i < d->state_first.at[state + 1]; i++) {
		first = d->clauses[d->states.at[i]].first;
		dimension = first < dimension ? first : dimension;
	}
	if (subject && dimension >= d->subjects)
		return row(d, state, uncertain, false, child);
	if (dimension == NO_DIMENSION)
		return leaf_of(d, state, uncertain, child);
	if (d->depth == MAX_DEPTH)
		return -EINVAL;
	d->depth++;
	error = decide(d, dimension, state, uncertain, subject, child);
	d->depth--;
	return error;
}

static int descend(struct bpfence_diagrams *d, uint32_t state, bool uncertain, bool subject, int32_t *child)
{
	struct words *memo = &d->memo[subject];
	size_t at = 2 * (size_t)state + uncertain;
	int error;

	*child = NOTHING;
	if (!subject && !state_size(d, state))
		return 0;
	if (memo->n <= at && words_fill(memo, (uint32_t)UNKNOWN, 2 * d->state_first.n - memo->n))
		return -ENOMEM;
	*child = memo->at[at];
	if (*child != UNKNOWN)
		return 0;
	error = descend_new(d, state, uncertain, subject, child);
	memo->at[at] = *child;
	return error;
}

int bpfence_diagrams_build(struct bpfence_diagrams *d, const uint32_t *clauses, uint32_t n)
{
	uint32_t state, i;
	int error;

	for (i = 0; i < n; i++)
		if (clauses[i] >= d->n_clauses)
			return -EINVAL;
	d->stack.n = 0;
	if (words_append(&d->stack, clauses, n))
		return -ENOMEM;
	stack_set(d, 0);
	error = stack_state(d, 0, &state);
	return error ? error : descend(d, state, false, true, &d->subject_root);
}

void bpfence_diagrams_made(const struct bpfence_diagrams *d, struct bpfence_group *group)
{
	*group = (struct bpfence_group){
		d->node.hash.n,
		d->leaf.hash.n,
		d->row.hash.n,
		d->node_first.at,
		d->nodes.at,
		d->leaf_first.at,
		d->leaves.at,
		d->row_first.at,
		d->rows.at,
		d->subject_root,
		d->edges,
	};
}
