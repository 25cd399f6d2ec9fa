// SPDX-License-Identifier: Apache-2.0
/* Bytes of a ring buffer in, records out: the compiled twin of plain.py, compiled into bpfence.events._record by setup.py and documented
 * in _record.pyi. A record keeps its bytes; what stands in them is made into Python's values when it is asked for, as most of it never is.
 *
 * The bytes are hostile. `decode` checks the sizes once: after it, every number, verdict and string of a record lies within its bytes.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
#include <stddef.h>
#include <string.h>

#include <linux/types.h>
#include "../../../bpf/abi.h"

#define WORD 8  /* bytes of a wide number */
#define HALF 4  /* bytes of a narrow number, a verdict, a string's reference */
#define NARROW_WORDS (ABI_NUM_WIDE / 64)

typedef struct {
	PyObject_HEAD struct event_header header;
	PyObject *buffer, *event, *data, *verdicts;
	PyObject *numbers, *strings;           /* made at first use */
	PyObject *masks, *subject;             /* what `subject` has made last, and of what */
	__u64 present[ABI_NUM_WORDS];
	Py_ssize_t wide, narrow, references;   /* offsets in data */
} Record;

typedef struct {
	PyTypeObject *record, *plan;
} State;

static __u64 word_at(const char *data)
{
	__u64 value;

	memcpy(&value, data, sizeof(value));
	return value;
}

static __u32 half_at(const char *data)
{
	__u32 value;

	memcpy(&value, data, sizeof(value));
	return value;
}

static Py_ssize_t bits(__u64 word)
{
	return __builtin_popcountll(word);
}

static const char *bytes_of(const Record *self)
{
	return PyBytes_AsString(self->data);
}

/* ---- decoding ---- */

/* Where each part of the body begins. False: the size is not that of what the record says it has. */
static int lay_out(Record *self, const char *data, Py_ssize_t length)
{
	const struct event_header *h = &self->header;
	Py_ssize_t at = sizeof(*h) + h->text_size, wide = 0, narrow = 0;
	unsigned int word;

	if (at + WORD * bits(h->num_words) > length)
		return 0;
	for (word = 0; word < ABI_NUM_WORDS; word++) {
		if (!(h->num_words >> word & 1))
			continue;
		self->present[word] = word_at(data + at);
		at += WORD;
		*(word < NARROW_WORDS ? &narrow : &wide) += bits(self->present[word]);
	}
	self->wide = at;
	self->narrow = self->wide + WORD * wide;
	self->references = self->narrow + HALF * (narrow + h->n_verdicts);
	return self->references + HALF * h->n_strings == h->size;
}

static int strings_fit(const Record *self, const char *data)
{
	Py_ssize_t size = 0;
	unsigned int i;

	for (i = 0; i < self->header.n_strings; i++)
		size += half_at(data + self->references + HALF * i) >> STRING_LENGTH_SHIFT;
	return size <= self->header.text_size;
}

static int read_verdicts(Record *self, const char *data)
{
	Py_ssize_t i, n = self->header.n_verdicts, at = self->references - HALF * n;

	self->verdicts = PyTuple_New(n);
	for (i = 0; self->verdicts && i < n; i++) {
		PyObject *verdict = PyLong_FromUnsignedLong(half_at(data + at + HALF * i));

		if (!verdict || PyTuple_SetItem(self->verdicts, i, verdict))
			return -1;
	}
	return self->verdicts ? 0 : -1;
}

/* Fills a record in. NULL: it is well-formed, or an exception is set; else a text that says what is wrong. */
static PyObject *read_record(Record *self, const char *data, Py_ssize_t length, PyObject *names)
{
	struct event_header *h = &self->header;

	if (length < (Py_ssize_t)sizeof(*h))
		return PyUnicode_FromFormat("%zd bytes are too few for a record", length);
	memcpy(h, data, sizeof(*h));
	if (h->abi != ABI_VERSION || h->type != RECORD_EVENT)
		return PyUnicode_FromFormat("ABI %u, record type %u", h->abi, h->type);
	if (sizeof(*h) + h->text_size > h->size || h->size > length)
		return PyUnicode_FromFormat("the record says %u bytes and has %zd", h->size, length);
	self->event = h->event < PyTuple_Size(names) ? PyTuple_GetItem(names, h->event) : NULL;
	Py_XINCREF(self->event);
	if (!self->event || self->event == Py_None)
		return PyUnicode_FromFormat("unknown event %u", h->event);
	if (h->n_verdicts > ABI_MAX_GROUPS)
		return PyUnicode_FromFormat("%u verdicts", h->n_verdicts);
	if (h->num_words >> ABI_NUM_WORDS || h->n_strings > ABI_STR_SLOTS)
		return PyUnicode_FromFormat("words 0x%x of numbers, %u strings", h->num_words, h->n_strings);
	if (!lay_out(self, data, length))
		return PyUnicode_FromString("the record's size is not that of what it has");
	if (!strings_fit(self, data))
		return PyUnicode_FromString("a string lies outside the record");
	read_verdicts(self, data);
	return NULL;
}

/* A record, or a text that says what is wrong. NULL: there is an exception. */
static PyObject *decode_one(State *state, PyObject *buffer, PyObject *bytes, PyObject *names)
{
	PyObject *wrong;
	Record *self;
	char *data;
	Py_ssize_t length;

	if (PyBytes_AsStringAndSize(bytes, &data, &length))
		return NULL;
	self = (Record *)PyType_GenericAlloc(state->record, 0);
	if (!self)
		return NULL;
	Py_INCREF(buffer);
	Py_INCREF(bytes);
	self->buffer = buffer;
	self->data = bytes;
	wrong = read_record(self, data, length, names);
	if (!wrong && !PyErr_Occurred())
		return (PyObject *)self;
	Py_DECREF(self);
	return wrong;
}

static PyObject *decode(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
	if (count != 3 || !PyTuple_Check(arguments[2])) {
		PyErr_SetString(PyExc_TypeError, "decode(buffer, data, names): names is a tuple");
		return NULL;
	}
	return decode_one(PyModule_GetState(module), arguments[0], arguments[1], arguments[2]);
}

/* ---- what stands in a record ---- */

/* The slot of a number or string as an argument; -1: there is an exception. */
static long slot_of(PyObject *number, long end)
{
	long slot = PyLong_AsLong(number);

	if (slot == -1 && PyErr_Occurred())
		return -1;
	if (slot < 0 || slot >= end) {
		PyErr_Format(PyExc_ValueError, "there is no slot %ld", slot);
		return -1;
	}
	return slot;
}

static int has_number(const Record *self, unsigned int slot)
{
	return self->present[slot / 64] >> slot % 64 & 1;
}

/* A number that is present. Numbers stand by their slots: how many present ones come before it says where. */
static __u64 number_at(const Record *self, unsigned int slot)
{
	unsigned int first = slot < ABI_NUM_WIDE ? 0 : NARROW_WORDS, word;
	Py_ssize_t before = bits(self->present[slot / 64] & ((1ULL << slot % 64) - 1));

	for (word = first; word < slot / 64; word++)
		before += bits(self->present[word]);
	return first ? word_at(bytes_of(self) + self->wide + WORD * before) : half_at(bytes_of(self) + self->narrow + HALF * before);
}

/* A string that is present, the last of its slot, or NULL. */
static const char *find_string(const Record *self, unsigned int slot, Py_ssize_t *size)
{
	const char *data = bytes_of(self), *text = data + sizeof(struct event_header), *found = NULL;
	unsigned int i;

	for (i = 0; i < self->header.n_strings; i++) {
		__u32 reference = half_at(data + self->references + HALF * i);

		if ((reference & STRING_SLOT_MASK) == slot) {
			found = text;
			*size = reference >> STRING_LENGTH_SHIFT;
		}
		text += reference >> STRING_LENGTH_SHIFT;
	}
	return found;
}

/* The slot that is asked for, and what stands for a value that is not there. -1: there is an exception. */
static long read_question(PyObject *const *arguments, Py_ssize_t count, long end, PyObject **fallback)
{
	if (count < 1 || count > 2) {
		PyErr_SetString(PyExc_TypeError, "(slot, default=None)");
		return -1;
	}
	*fallback = count == 2 ? arguments[1] : Py_None;
	return slot_of(arguments[0], end);
}

static PyObject *record_number(Record *self, PyObject *const *arguments, Py_ssize_t count)
{
	PyObject *fallback;
	long slot = read_question(arguments, count, ABI_NUM_SLOTS, &fallback);

	if (slot < 0)
		return NULL;
	if (has_number(self, slot))
		return PyLong_FromUnsignedLongLong(number_at(self, slot));
	Py_INCREF(fallback);
	return fallback;
}

static PyObject *record_string(Record *self, PyObject *const *arguments, Py_ssize_t count)
{
	PyObject *fallback;
	long slot = read_question(arguments, count, ABI_STR_SLOTS, &fallback);
	Py_ssize_t size = 0;
	const char *found = slot < 0 ? NULL : find_string(self, slot, &size);

	if (slot < 0)
		return NULL;
	if (found)
		return PyBytes_FromStringAndSize(found, size);
	Py_INCREF(fallback);
	return fallback;
}

/* Puts a value in a dictionary; takes the references. */
static int put(PyObject *dictionary, PyObject *key, PyObject *value)
{
	int result = key && value ? PyDict_SetItem(dictionary, key, value) : -1;

	Py_XDECREF(key);
	Py_XDECREF(value);
	return result;
}

static PyObject *shared(PyObject *made)
{
	Py_XINCREF(made);
	return made;
}

static PyObject *get_numbers(Record *self, void *unused)
{
	PyObject *made;
	unsigned int slot;

	if (self->numbers)
		return shared(self->numbers);
	made = PyDict_New();
	for (slot = 0; made && slot < ABI_NUM_SLOTS; slot++) {
		if (!(slot & 63) && !self->present[slot / 64])
			slot += 63;
		else if (has_number(self, slot) && put(made, PyLong_FromLong(slot), PyLong_FromUnsignedLongLong(number_at(self, slot))))
			Py_CLEAR(made);
	}
	self->numbers = made;
	return shared(made);
}

static PyObject *get_strings(Record *self, void *unused)
{
	const char *data = bytes_of(self), *text = data + sizeof(struct event_header);
	PyObject *made;
	unsigned int i;

	if (self->strings)
		return shared(self->strings);
	made = PyDict_New();
	for (i = 0; made && i < self->header.n_strings; i++) {
		__u32 reference = half_at(data + self->references + HALF * i), length = reference >> STRING_LENGTH_SHIFT;

		if (put(made, PyLong_FromLong(reference & STRING_SLOT_MASK), PyBytes_FromStringAndSize(text, length)))
			Py_CLEAR(made);
		text += length;
	}
	self->strings = made;
	return shared(made);
}

static PyObject *get_comm(Record *self, void *unused)
{
	const char *comm = (const char *)self->header.comm;

	return PyBytes_FromStringAndSize(comm, strnlen(comm, sizeof(self->header.comm)));
}

/* ---- what a record says of its process ---- */

#define ABOUT offsetof(struct event_header, pid)  /* from here to its end the header is about the process */
#define MASKS ((ABI_NUM_WORDS + 1) * WORD)

static char *append(char *to, const void *from, size_t size)
{
	memcpy(to, from, size);
	return to + size;
}

/* At most as long as the record, and one word longer for each word of numbers. */
static char *write_subject(const Record *self, const char *masks, char *to)
{
	const char *data = bytes_of(self), *text = data + sizeof(struct event_header);
	__u64 strings = word_at(masks + WORD * ABI_NUM_WORDS);
	unsigned int word, i;

	to = append(to, (const char *)&self->header + ABOUT, sizeof(self->header) - ABOUT);
	for (word = 0; word < ABI_NUM_WORDS; word++) {
		__u64 chosen = self->present[word] & word_at(masks + WORD * word);

		to = append(to, &chosen, WORD);
		for (; chosen; chosen &= chosen - 1) {
			__u64 value = number_at(self, 64 * word + __builtin_ctzll(chosen));

			to = append(to, &value, word < NARROW_WORDS ? HALF : WORD);
		}
	}
	for (i = 0; i < self->header.n_strings; i++) {
		__u32 reference = half_at(data + self->references + HALF * i), slot = reference & STRING_SLOT_MASK;
		__u32 length = reference >> STRING_LENGTH_SHIFT;

		if (slot < ABI_STR_SLOTS && strings >> slot & 1) {
			to = append(to, &reference, HALF);
			to = append(to, text, length);
		}
		text += length;
	}
	return to;
}

/* What of the kind of a record, beside its process, decides what it means. */
static char *write_kind(const Record *self, char *to)
{
	const struct event_header *h = &self->header;
	__u8 failed = has_number(self, NUM_RESULT) && number_at(self, NUM_RESULT) >> 63;

	to = append(to, &h->event, sizeof(h->event));
	to = append(to, &h->flags, sizeof(h->flags));
	to = append(to, &failed, sizeof(failed));
	to = append(to, &h->error, sizeof(h->error));
	to = append(to, &h->action, sizeof(h->action));
	to = append(to, &h->n_verdicts, sizeof(h->n_verdicts));
	return append(to, bytes_of(self) + self->references - HALF * h->n_verdicts, HALF * h->n_verdicts);
}

#define KIND (2 * sizeof(__u64) + HALF * ABI_MAX_GROUPS)

static PyObject *subject_bytes(const Record *self, PyObject *argument, int with_kind)
{
	char room[2048], *made = room, *masks, *end;
	size_t most = KIND + self->header.size + WORD * ABI_NUM_WORDS;
	Py_ssize_t length;
	PyObject *result;

	if (PyBytes_AsStringAndSize(argument, &masks, &length))
		return NULL;
	if (length != MASKS) {
		PyErr_SetString(PyExc_ValueError, "a mask for each word of numbers, and one for strings");
		return NULL;
	}
	if (most > sizeof(room) && !(made = PyMem_Malloc(most)))
		return PyErr_NoMemory();
	end = with_kind ? write_kind(self, made) : made;
	result = PyBytes_FromStringAndSize(made, write_subject(self, masks, end) - made);
	if (made != room)
		PyMem_Free(made);
	return result;
}

static PyObject *record_kind(Record *self, PyObject *argument)
{
	return subject_bytes(self, argument, 1);
}

static PyObject *record_subject(Record *self, PyObject *argument)
{
	PyObject *result;

	if (self->masks == argument)
		return shared(self->subject);
	result = subject_bytes(self, argument, 0);
	if (!result)
		return NULL;
	Py_XDECREF(self->masks);
	Py_XDECREF(self->subject);
	self->masks = shared(argument);
	self->subject = shared(result);
	return result;
}

/* ---- batches ---- */

/* Records in a row that came to nothing, of which the same has said so. */
typedef struct {
	PyObject *by, *buffer;
	__u64 sequence, time;                  /* sequence: of the first; time: of the last */
	unsigned int stream, count;
} Run;

static int add_to(PyObject *list, PyObject *made)
{
	int result = made ? PyList_Append(list, made) : -1;

	Py_XDECREF(made);
	return result;
}

static int end_run(PyObject *list, Run *run)
{
	int result = 0;

	if (run->count)
		result = add_to(list, Py_BuildValue("OOIKIK", run->by, run->buffer, run->stream, run->sequence, run->count, run->time));
	Py_CLEAR(run->by);
	run->count = 0;
	return result;
}

/* One more record that came to nothing. The buffer's name lives as long as the batch. */
static int add_to_run(PyObject *list, Run *run, const Record *record, PyObject *by)
{
	const struct event_header *h = &record->header;

	if (run->count && run->by == by && run->buffer == record->buffer && run->stream == h->stream && run->sequence + run->count == h->sequence) {
		run->count++;
		run->time = h->time;
		return 0;
	}
	if (end_run(list, run))
		return -1;
	*run = (Run){ .by = shared(by), .buffer = record->buffer, .sequence = h->sequence, .time = h->time, .stream = h->stream, .count = 1 };
	return 0;
}

/* Who has said that such a record comes to nothing: a borrowed reference. NULL: nobody, or there is an exception. */
static PyObject *nothing_by(const Record *record, PyObject *masks, PyObject *known)
{
	PyObject *kind = subject_bytes(record, masks, 1), *by = kind ? PyDict_GetItemWithError(known, kind) : NULL;

	Py_XDECREF(kind);
	return by;
}

static int sift_one(State *state, PyObject *list, Run *run, PyObject *item, PyObject *const *arguments)
{
	PyObject *buffer, *data, *made, *by = NULL;
	int is_record, result;

	if (!PyArg_ParseTuple(item, "OO", &buffer, &data))
		return -1;
	made = decode_one(state, buffer, data, arguments[1]);
	if (!made)
		return -1;
	is_record = Py_TYPE(made) == state->record;
	if (is_record && PyDict_Size(arguments[3]))
		by = nothing_by((Record *)made, arguments[2], arguments[3]);
	if (PyErr_Occurred())
		result = -1;
	else if (by)
		result = add_to_run(list, run, (Record *)made, by);
	else if (end_run(list, run))
		result = -1;
	else
		result = is_record ? PyList_Append(list, made) : add_to(list, Py_BuildValue("OO", buffer, made));
	Py_DECREF(made);
	return result;
}

static PyObject *sift(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
	State *state = PyModule_GetState(module);
	PyObject *list;
	Run run = { .count = 0 };
	Py_ssize_t i;

	if (count != 4 || !PyList_Check(arguments[0]) || !PyTuple_Check(arguments[1]) || !PyDict_Check(arguments[3])) {
		PyErr_SetString(PyExc_TypeError, "sift(batch, names, masks, known): a list, a tuple, bytes, and a dict");
		return NULL;
	}
	list = PyList_New(0);
	for (i = 0; list && i < PyList_Size(arguments[0]); i++)
		if (sift_one(state, list, &run, PyList_GetItem(arguments[0], i), arguments))
			Py_CLEAR(list);
	if (list && end_run(list, &run))
		Py_CLEAR(list);
	Py_XDECREF(run.by);
	return list;
}

/* ---- plans: records as text ---- */

enum op_kind { OP_LITERAL,
	       OP_ARGUMENT,
	       OP_OPEN,
	       OP_CLOSE,
	       OP_TEXT,
	       OP_NUMBER,
	       OP_SIGNED,
	       OP_STRING_TABLE,
	       OP_NUMBER_TABLE,
	       OP_KINDS };

typedef struct {
	enum op_kind kind;
	unsigned int slot;
	const char *key, *end, *absent;        /* absent: NULL where nothing stands for what is not there */
	Py_ssize_t key_size, end_size, absent_size;
	PyObject *make, *table;
} Op;

typedef struct {
	PyObject_HEAD PyObject *source;                      /* whose bytes and functions the ops point to */
	Py_ssize_t count;
	Op *ops;
} Plan;

#define MAX_OPS 1024
#define MAX_DEPTH 8
#define MAX_TABLE 4096  /* values of one slot that are kept: whoever varies them on purpose is bounded */

typedef struct {
	char *data;
	Py_ssize_t length, room;
	char first[4096];
} Text;

static int text_add(Text *text, const char *data, Py_ssize_t size)
{
	if (text->length + size > text->room) {
		Py_ssize_t room = 2 * (text->length + size);
		char *bigger = PyMem_Realloc(text->data == text->first ? NULL : text->data, room);

		if (!bigger) {
			PyErr_NoMemory();
			return -1;
		}
		if (text->data == text->first)
			memcpy(bigger, text->first, text->length);
		text->data = bigger;
		text->room = room;
	}
	memcpy(text->data + text->length, data, size);
	text->length += size;
	return 0;
}

/* A key begins with a comma, which is left out behind a brace. */
static int text_add_key(Text *text, const Op *op)
{
	int skip = op->key_size && op->key[0] == ',' && text->length && text->data[text->length - 1] == '{';

	return text_add(text, op->key + skip, op->key_size - skip);
}

static int text_add_bytes(Text *text, PyObject *made)
{
	char *data;
	Py_ssize_t size;
	int result = made && !PyBytes_AsStringAndSize(made, &data, &size) ? text_add(text, data, size) : -1;

	Py_XDECREF(made);
	return result;
}

static int text_add_number(Text *text, __u64 value, int is_signed)
{
	int negative = is_signed && value >> 63;
	char digits[24], *at = digits + sizeof(digits);

	if (negative)
		value = -value;
	do
		*--at = '0' + value % 10;
	while (value /= 10);
	if (negative)
		*--at = '-';
	return text_add(text, at, digits + sizeof(digits) - at);
}

/* Whether a string is the same in a line: printable ASCII, without what is escaped. */
static int is_plain(const char *data, Py_ssize_t size)
{
	Py_ssize_t i;

	for (i = 0; i < size; i++)
		if (data[i] < ' ' || data[i] > '~' || data[i] == '"' || data[i] == '\\')
			return 0;
	return 1;
}

/* What `make` says of a value, from the table if it is there. Takes the reference. */
static PyObject *from_table(const Op *op, PyObject *value)
{
	PyObject *made = value ? PyDict_GetItemWithError(op->table, value) : NULL;

	Py_XINCREF(made);
	if (value && !made && !PyErr_Occurred()) {
		made = PyObject_CallFunctionObjArgs(op->make, value, NULL);
		if (made && PyDict_Size(op->table) < MAX_TABLE && PyDict_SetItem(op->table, value, made))
			Py_CLEAR(made);
	}
	Py_XDECREF(value);
	return made;
}

static int write_number(Text *text, const Op *op, const Record *record)
{
	__u64 value = number_at(record, op->slot);

	if (op->kind == OP_NUMBER_TABLE)
		return text_add_bytes(text, from_table(op, PyLong_FromUnsignedLongLong(value)));
	return text_add_number(text, value, op->kind == OP_SIGNED);
}

static int write_string(Text *text, const Op *op, const char *data, Py_ssize_t size)
{
	if (op->kind == OP_STRING_TABLE)
		return text_add_bytes(text, from_table(op, PyBytes_FromStringAndSize(data, size)));
	if (is_plain(data, size))
		return text_add(text, data, size);
	return text_add_bytes(text, PyObject_CallFunction(op->make, "y#", data, size));
}

static int write_value(Text *text, const Op *op, const Record *record)
{
	int is_string = op->kind == OP_TEXT || op->kind == OP_STRING_TABLE;
	Py_ssize_t size = 0;
	const char *string = is_string ? find_string(record, op->slot, &size) : NULL;

	if (is_string ? !string : !has_number(record, op->slot))
		return op->absent ? text_add(text, op->absent, op->absent_size) : 0;
	if (text_add_key(text, op) || (is_string ? write_string(text, op, string, size) : write_number(text, op, record)))
		return -1;
	return text_add(text, op->end, op->end_size);
}

static int write_argument(Text *text, const Op *op, PyObject *arguments)
{
	PyObject *argument = PyTuple_GetItem(arguments, op->slot);

	Py_XINCREF(argument);
	return text_add_bytes(text, argument);
}

static int write_plan(Text *text, const Plan *plan, const Record *record, PyObject *arguments)
{
	Py_ssize_t before[MAX_DEPTH], opened[MAX_DEPTH], i;
	unsigned int depth = 0;
	int result = 0;

	for (i = 0; !result && i < plan->count; i++) {
		const Op *op = &plan->ops[i];

		switch (op->kind) {
		case OP_LITERAL:
			result = text_add(text, op->key, op->key_size);
			break;
		case OP_ARGUMENT:
			result = write_argument(text, op, arguments);
			break;
		case OP_OPEN:
			before[depth] = text->length;
			result = text_add_key(text, op);
			opened[depth++] = text->length;
			break;
		case OP_CLOSE:
			depth--;
			if (text->length == opened[depth])
				text->length = before[depth];
			else
				result = text_add(text, op->key, op->key_size);
			break;
		default:
			result = write_value(text, op, record);
		}
	}
	return result;
}

static PyObject *plan_write(Plan *self, PyObject *const *arguments, Py_ssize_t count)
{
	State *state = PyType_GetModuleState(Py_TYPE((PyObject *)self));
	Text text;
	PyObject *result = NULL;

	if (count != 2 || Py_TYPE(arguments[0]) != state->record || !PyTuple_Check(arguments[1])) {
		PyErr_SetString(PyExc_TypeError, "write(record, arguments): arguments is a tuple of bytes");
		return NULL;
	}
	text.data = text.first;
	text.length = 0;
	text.room = sizeof(text.first);
	if (!write_plan(&text, self, (Record *)arguments[0], arguments[1]))
		result = PyBytes_FromStringAndSize(text.data, text.length);
	if (text.data != text.first)
		PyMem_Free(text.data);
	return result;
}

/* One op of (kind, slot, key, end, absent, make). -1: there is an exception. */
static int read_op(Op *op, PyObject *source)
{
	PyObject *absent;
	int kind;

	if (!PyArg_ParseTuple(source, "iIy#y#OO", &kind, &op->slot, &op->key, &op->key_size, &op->end, &op->end_size, &absent, &op->make))
		return -1;
	op->kind = kind;
	if (kind < 0 || kind >= OP_KINDS || op->slot >= (kind == OP_TEXT || kind == OP_STRING_TABLE ? ABI_STR_SLOTS : ABI_NUM_SLOTS)) {
		PyErr_SetString(PyExc_ValueError, "there is no such op or slot");
		return -1;
	}
	if (absent != Py_None && PyBytes_AsStringAndSize(absent, (char **)&op->absent, &op->absent_size))
		return -1;
	op->table = PyDict_New();
	return op->table ? 0 : -1;
}

static int read_ops(Plan *self)
{
	Py_ssize_t n = PyTuple_Size(self->source), depth = 0;

	if (n < 0)
		return -1;
	self->ops = PyMem_Calloc(n ? n : 1, sizeof(*self->ops));
	if (n > MAX_OPS || !self->ops) {
		PyErr_SetString(PyExc_ValueError, "too many ops");
		return -1;
	}
	for (; self->count < n; self->count++) {
		Op *op = &self->ops[self->count];

		if (read_op(op, PyTuple_GetItem(self->source, self->count)))
			return -1;
		depth += (op->kind == OP_OPEN) - (op->kind == OP_CLOSE);
		if (depth < 0 || depth > MAX_DEPTH) {
			self->count++;
			PyErr_SetString(PyExc_ValueError, "ops are not nested");
			return -1;
		}
	}
	return 0;
}

static PyObject *plan_new(PyTypeObject *type, PyObject *arguments, PyObject *keywords)
{
	Plan *self = (Plan *)PyType_GenericAlloc(type, 0);

	if (!self)
		return NULL;
	if (!PyArg_ParseTuple(arguments, "O!", &PyTuple_Type, &self->source)) {
		self->source = NULL;
		Py_DECREF(self);
		return NULL;
	}
	Py_INCREF(self->source);
	if (!read_ops(self))
		return (PyObject *)self;
	Py_DECREF(self);
	return NULL;
}

static int plan_visit(Plan *self, visitproc visit, void *arg)
{
	Py_VISIT(Py_TYPE((PyObject *)self));
	Py_VISIT(self->source);
	return 0;
}

static void plan_free(Plan *self)
{
	PyTypeObject *type = Py_TYPE((PyObject *)self);
	Py_ssize_t i;

	PyObject_GC_UnTrack(self);
	for (i = 0; i < self->count; i++)
		Py_XDECREF(self->ops[i].table);
	PyMem_Free(self->ops);
	Py_XDECREF(self->source);
	((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
	Py_DECREF(type);
}

/* ---- the types ---- */

static void record_free(Record *self)
{
	PyTypeObject *type = Py_TYPE((PyObject *)self);

	Py_XDECREF(self->buffer);
	Py_XDECREF(self->event);
	Py_XDECREF(self->data);
	Py_XDECREF(self->verdicts);
	Py_XDECREF(self->numbers);
	Py_XDECREF(self->strings);
	Py_XDECREF(self->masks);
	Py_XDECREF(self->subject);
	((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
	Py_DECREF(type);
}

#define OF_HEADER(name, type) { #name, type, offsetof(Record, header.name), READONLY, NULL }

static PyMemberDef members[] = {
	{ "buffer", T_OBJECT_EX, offsetof(Record, buffer), READONLY, NULL },
	{ "event", T_OBJECT_EX, offsetof(Record, event), READONLY, NULL },
	{ "verdicts", T_OBJECT_EX, offsetof(Record, verdicts), READONLY, NULL },
	OF_HEADER(size, T_UINT),
	OF_HEADER(time, T_ULONGLONG),
	OF_HEADER(sequence, T_ULONGLONG),
	OF_HEADER(cpu, T_USHORT),
	OF_HEADER(stream, T_USHORT),
	OF_HEADER(error, T_USHORT),
	OF_HEADER(action, T_UBYTE),
	OF_HEADER(flags, T_UINT),
	OF_HEADER(pid, T_UINT),
	OF_HEADER(tid, T_UINT),
	OF_HEADER(ppid, T_UINT),
	OF_HEADER(generation, T_UINT),
	OF_HEADER(uid, T_UINT),
	OF_HEADER(start_time, T_ULONGLONG),
	OF_HEADER(exec_id, T_ULONGLONG),
	OF_HEADER(parent_exec_id, T_ULONGLONG),
	OF_HEADER(cgroup, T_ULONGLONG),
	OF_HEADER(gid, T_UINT),
	OF_HEADER(workload, T_UINT),
	OF_HEADER(mnt_ns, T_UINT),
	OF_HEADER(pid_ns, T_UINT),
	OF_HEADER(net_ns, T_UINT),
	OF_HEADER(user_ns, T_UINT),
	{ NULL },
};

static PyGetSetDef getters[] = {
	{ "numbers", (getter)get_numbers, NULL, NULL, NULL },
	{ "strings", (getter)get_strings, NULL, NULL, NULL },
	{ "comm", (getter)get_comm, NULL, NULL, NULL },
	{ NULL },
};

static PyMethodDef record_methods[] = {
	{ "number", (PyCFunction)(void (*)(void))record_number, METH_FASTCALL, NULL },
	{ "string", (PyCFunction)(void (*)(void))record_string, METH_FASTCALL, NULL },
	{ "subject", (PyCFunction)record_subject, METH_O, NULL },
	{ "kind", (PyCFunction)record_kind, METH_O, NULL },
	{ NULL },
};

static PyType_Slot record_slots[] = {
	{ Py_tp_dealloc, record_free },
	{ Py_tp_members, members },
	{ Py_tp_getset, getters },
	{ Py_tp_methods, record_methods },
	{ 0 },
};

static PyType_Spec record_specification = {
	.name = "bpfence.events._record.Record",
	.basicsize = sizeof(Record),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
	.slots = record_slots,
};

static const char *const op_names[OP_KINDS] = {
	"LITERAL",
	"ARGUMENT",
	"OPEN",
	"CLOSE",
	"TEXT",
	"NUMBER",
	"SIGNED",
	"STRING_TABLE",
	"NUMBER_TABLE",
};

static PyMethodDef plan_methods[] = {
	{ "write", (PyCFunction)(void (*)(void))plan_write, METH_FASTCALL, NULL },
	{ NULL },
};

static PyType_Slot plan_slots[] = {
	{ Py_tp_new, plan_new },
	{ Py_tp_dealloc, plan_free },
	{ Py_tp_traverse, plan_visit },
	{ Py_tp_methods, plan_methods },
	{ 0 },
};

static PyType_Spec plan_specification = {
	.name = "bpfence.events._record.Plan",
	.basicsize = sizeof(Plan),
	.flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
	.slots = plan_slots,
};

static int fill_module(PyObject *module)
{
	State *state = PyModule_GetState(module);
	int kind;

	state->record = (PyTypeObject *)PyType_FromModuleAndSpec(module, &record_specification, NULL);
	state->plan = (PyTypeObject *)PyType_FromModuleAndSpec(module, &plan_specification, NULL);
	if (!state->record || !state->plan)
		return -1;
	for (kind = 0; kind < OP_KINDS; kind++)
		if (PyModule_AddIntConstant(module, op_names[kind], kind))
			return -1;
	return PyModule_AddType(module, state->record) || PyModule_AddType(module, state->plan) ? -1 : 0;
}

static void free_module(void *module)
{
	State *state = PyModule_GetState(module);

	if (state) {
		Py_CLEAR(state->record);
		Py_CLEAR(state->plan);
	}
}

static PyMethodDef functions[] = {
	{ "decode", (PyCFunction)(void (*)(void))decode, METH_FASTCALL, NULL },
	{ "sift", (PyCFunction)(void (*)(void))sift, METH_FASTCALL, NULL },
	{ NULL },
};

static PyModuleDef_Slot module_slots[] = { { Py_mod_exec, fill_module }, { 0 } };

static PyModuleDef definition = {
	PyModuleDef_HEAD_INIT,
	.m_name = "bpfence.events._record",
	.m_size = sizeof(State),
	.m_methods = functions,
	.m_slots = module_slots,
	.m_free = free_module,
};

PyMODINIT_FUNC PyInit__record(void)
{
	return PyModuleDef_Init(&definition);
}
