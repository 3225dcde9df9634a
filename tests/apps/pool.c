/* A service with a queue: one epoll thread reads requests, workers take them, call out and answer.
 *
 *     pool port=N routes=FILE [next=HOST:PORT] [workers=8] [audit=1] [own=1] [background=FILE shared=1]
 *
 * audit: the last call is made after the answer. own: the worker reads the request itself. background: a thread of its
 * own makes calls that belong to no request, or, shared, puts them into the same queue. The queue is a mutex and a
 * condition variable; all calls are blocking, on a keep-alive connection of each worker.
 * It must never let a worker know whose request the next one is. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

struct route { char path[48]; int delay, size, calls; char call[4][48]; };
struct job { struct job *next; int fd; char path[48]; };
static struct route *table;
static size_t routes;
static int next_port, workers = 8, audit, own, shared, epoll_fd;
static char *background;
static struct job *first, **last = &first;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t filled = PTHREAD_COND_INITIALIZER;

static int by_path(const void *a, const void *b)
{
	return strcmp(((const struct route *)a)->path, ((const struct route *)b)->path);
}

static void load(const char *name)
{
	char line[512];
	FILE *in = fopen(name, "r");
	size_t room = 0;
	if (!in)
		exit(2);
	while (fgets(line, sizeof line, in)) {
		if (routes == room)
			table = realloc(table, (room = room ? room * 2 : 1024) * sizeof *table);
		struct route *r = &table[routes++];
		memset(r, 0, sizeof *r);
		char *save, *field = strtok_r(line, "\t\n", &save);
		snprintf(r->path, sizeof r->path, "%s", field);
		r->delay = atoi(strtok_r(NULL, "\t\n", &save));
		r->size = atoi(strtok_r(NULL, "\t\n", &save));
		while (r->calls < 4 && (field = strtok_r(NULL, "\t\n", &save)))
			snprintf(r->call[r->calls++], 48, "%s", field);
	}
	fclose(in);
	qsort(table, routes, sizeof *table, by_path);
}

static void call(int *fd, const char *path)
{
	char buffer[8192], request[256];
	if (*fd < 0) {
		int one = 1;
		struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(next_port), .sin_addr = { htonl(INADDR_LOOPBACK) } };
		*fd = socket(AF_INET, SOCK_STREAM, 0);
		if (connect(*fd, (struct sockaddr *)&a, sizeof a))
			exit(3);
		setsockopt(*fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	}
	int length = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path);
	if (write(*fd, request, length) != length)
		exit(4);
	size_t have = 0, want = 0;
	do {
		ssize_t n = read(*fd, buffer + have, sizeof buffer - 1 - have);
		if (n <= 0)
			exit(5);
		have += n;
		buffer[have] = 0;
		char *end = strstr(buffer, "\r\n\r\n"), *size = strcasestr(buffer, "content-length:");
		if (end && size)
			want = end + 4 - buffer + atoi(size + 15);
	} while (!want || have < want);
}

static void push(int fd, const char *path)
{
	struct job *job = calloc(1, sizeof *job);
	job->fd = fd;
	snprintf(job->path, sizeof job->path, "%s", path);
	pthread_mutex_lock(&lock);
	*last = job;
	last = &job->next;
	pthread_cond_signal(&filled);
	pthread_mutex_unlock(&lock);
}

/* The path of the one request that is there; 0 if the connection is over. */
static int read_request(int fd, char *path)
{
	char buffer[8192];
	size_t have = 0;
	do {
		ssize_t n = read(fd, buffer + have, sizeof buffer - 1 - have);
		if (n <= 0)
			return 0;
		have += n;
		buffer[have] = 0;
	} while (!strstr(buffer, "\r\n\r\n"));
	return sscanf(buffer, "%*s %47s", path) == 1;
}

static void watch(int fd, int again)
{
	struct epoll_event event = { .events = EPOLLIN | EPOLLONESHOT, .data.fd = fd };
	epoll_ctl(epoll_fd, again ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event);
}

static void *work(void *unused)
{
	int upstream = -1;
	char *answer = malloc(65536);
	for (;;) {
		pthread_mutex_lock(&lock);
		while (!first)
			pthread_cond_wait(&filled, &lock);
		struct job *job = first;
		first = job->next;
		if (!first)
			last = &first;
		pthread_mutex_unlock(&lock);
		if (job->fd < 0) {
			call(&upstream, job->path);
			free(job);
			continue;
		}
		if (own && !read_request(job->fd, job->path)) {
			close(job->fd);
			free(job);
			continue;
		}
		struct route want = { .size = 2 };
		memcpy(want.path, job->path, sizeof want.path);
		struct route *found = bsearch(&want, table, routes, sizeof *table, by_path), *r = found ? found : &want;
		usleep(r->delay * 1000);
		int before = audit && r->calls ? r->calls - 1 : r->calls;
		for (int i = 0; i < before; i++)
			call(&upstream, r->call[i]);
		int length = snprintf(answer, 256, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", r->size);
		memset(answer + length, '.', r->size);
		watch(job->fd, 1);
		if (write(job->fd, answer, length + r->size) != length + r->size)
			exit(6);
		for (int i = before; i < r->calls; i++)
			call(&upstream, r->call[i]);
		free(job);
	}
	return unused;
}

static void *timer(void *unused)
{
	char line[64];
	int upstream = -1;
	FILE *in = fopen(background, "r");
	while (in && fgets(line, sizeof line, in)) {
		line[strcspn(line, "\n")] = 0;
		usleep(20000);
		if (shared)
			push(-1, line);
		else
			call(&upstream, line);
	}
	return unused;
}

int main(int count, char **arguments)
{
	int port = 0, one = 1;
	pthread_t thread;
	for (int i = 1; i < count; i++) {
		char *value = strchr(arguments[i], '=');
		if (!value)
			return 2;
		*value++ = 0;
		if (!strcmp(arguments[i], "port"))
			port = atoi(value);
		else if (!strcmp(arguments[i], "routes"))
			load(value);
		else if (!strcmp(arguments[i], "next"))
			next_port = atoi(strrchr(value, ':') + 1);
		else if (!strcmp(arguments[i], "workers"))
			workers = atoi(value);
		else if (!strcmp(arguments[i], "background"))
			background = value;
		else if (!strcmp(arguments[i], "audit"))
			audit = 1;
		else if (!strcmp(arguments[i], "own"))
			own = 1;
		else if (!strcmp(arguments[i], "shared"))
			shared = 1;
	}
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr = { htonl(INADDR_LOOPBACK) } };
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(listener, (struct sockaddr *)&a, sizeof a) || listen(listener, 128))
		return 1;
	epoll_fd = epoll_create1(0);
	watch(listener, 0);
	for (int i = 0; i < workers; i++)
		pthread_create(&thread, NULL, work, NULL);
	if (background)
		pthread_create(&thread, NULL, timer, NULL);
	for (;;) {
		struct epoll_event events[64];
		int n = epoll_wait(epoll_fd, events, 64, -1);
		for (int i = 0; i < n; i++) {
			int fd = events[i].data.fd;
			char path[48] = "";
			if (fd == listener) {
				fd = accept(listener, NULL, NULL);
				setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
				watch(fd, 0);
				watch(listener, 1);
			} else if (own || read_request(fd, path)) {
				push(fd, path);
			} else {
				close(fd);
			}
		}
	}
}
