/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the trigger share. An act reads its words from `args` and returns what the process exits with. */
#pragma once
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

#define EXIT_WRONG 200

/* A trigger with this in its environment exits with 0 at once: it is there to have been executed, with whatever name and arguments. */
#define IDLE "TRIGGER_IDLE"

struct io_uring_sqe;

struct act {
	const char *name;
	int (*act)(void);
};

extern char **environ, **args;
/* The acts of the other files, each up to one without a name. */
extern const struct act cgroup_acts[], falco_acts[], file_acts[], hammer_acts[], mount_acts[], network_acts[], process_acts[], ways_acts[];

void wrong(const char *what);
int report(long result);
int report_fd(int fd);
const char *arg(int n);
const char *opt(int n, const char *otherwise);
long number(const char *text);
int open_flags(const char *text);
int need_fd(int fd, const char *what);
int collect(pid_t child);
int copy_of(const char *from, int to);
socklen_t address(const char *ip, const char *port, struct sockaddr_storage *out);
int uring_request(const struct io_uring_sqe *request);
int uring_request_with(const struct io_uring_sqe *request, const struct iovec *fixed);
void private_mounts(void);
int dispatch(char **argv);
struct io_uring_sqe;
