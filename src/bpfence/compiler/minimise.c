// SPDX-License-Identifier: Apache-2.0
/* A deterministic automaton in, the one with the fewest states out, and the way in for Python: with automata.c the twin of determinise.py.
 *
 * Moore's refinement, in which only states with a successor that moved are looked at again, and the largest part of a
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
	struct words touched, moved, rows, row_first, group_of, group_row, group_count, group_hash, order;
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
		uint32_t group, hash;
		int error = row_append(p, p->element[start + i]);

		if (error)
			return error;
		length = p->rows.n - at;
		hash = (uint32_t)hash_bytes(p->rows.at + at, length * sizeof(uint32_t), block);
		slot = hash & (table->room - 1);
		for (; (group = table->slot[slot]) != NONE; slot = (slot + 1) & (table->room - 1)) {
			size_t other;

			if (group < base || p->group_hash.at[group] != hash)
				continue;
			other = p->row_first.at[p->group_row.at[group]];
			if (p->row_first.at[p->group_row.at[group] + 1] - other == length &&
			    !memcmp(p->rows.at + other, p->rows.at + at, length * sizeof(uint32_t)))
				break;
		}
		if (group == NONE) {
			group = table->slot[slot] = p->group_row.n;
			if (words_put(&p->group_row, p->row_first.n - 1) || words_put(&p->group_count, 0) || words_put(&p->group_hash, hash) || words_put(&p->row_first, p->rows.n))
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
	p->moved.n = p->rows.n = p->group_of.n = p->group_row.n = p->group_count.n = p->group_hash.n = p->row_first.n = 0;
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
	struct words *all[] = { &p->touched, &p->moved, &p->rows, &p->row_first, &p->group_of, &p->group_row, &p->group_count, &p->group_hash, &p->order };
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
