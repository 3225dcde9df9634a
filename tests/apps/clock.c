/* A service that reads the clock directly around its system calls, and says what it read.
 *
 *     clock port=N routes=FILE next=HOST:PORT log=FILE
 *
 * A thread per connection, blocking sockets. For each path a line of nanoseconds of CLOCK_REALTIME is logged:
 *     server PATH <after the read of the first byte> <after the write of the last byte>
 *     client PATH <after the write of the first byte> <after the read of the last byte>
 * and for each call which bytes of its connection it was, as the other services log it.
 * It must never do anything between a clock reading and its system call. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct route { char path[48]; int delay, size, calls; char call[4][48]; };
static struct route *table;
static size_t routes;
static int next_port;
static FILE *out;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static long long now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void note(const char *role, const char *path, long long first, long long last)
{
	pthread_mutex_lock(&lock);
	fprintf(out, "%s %s %lld %lld\n", role, path, first, last);
	fflush(out);
	pthread_mutex_unlock(&lock);
}

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

/* A keep-alive connection to the next service: its socket, its port, bytes so far. */
struct upstream { int fd, port; unsigned long long sent, received; };

static void call(struct upstream *up, const char *path)
{
	char buffer[8192], request[256];
	int *fd = &up->fd;
	if (*fd < 0) {
		int one = 1;
		socklen_t size = sizeof(struct sockaddr_in);
		struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(next_port), .sin_addr = { htonl(INADDR_LOOPBACK) } };
		*fd = socket(AF_INET, SOCK_STREAM, 0);
		if (connect(*fd, (struct sockaddr *)&a, sizeof a))
			exit(3);
		setsockopt(*fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
		getsockname(*fd, (struct sockaddr *)&a, &size);
		up->port = ntohs(a.sin_port);
	}
	int length = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path);
	if (write(*fd, request, length) != length)
		exit(4);
	long long first = now(), last;
	size_t have = 0, want = 0;
	do {
		ssize_t n = read(*fd, buffer + have, sizeof buffer - 1 - have);
		last = now();
		if (n <= 0)
			exit(5);
		have += n;
		buffer[have] = 0;
		char *end = strstr(buffer, "\r\n\r\n");
		char *size = strcasestr(buffer, "content-length:");
		if (end && size)
			want = end + 4 - buffer + atoi(size + 15);
	} while (!want || have < want);
	note("client", path, first, last);
	pthread_mutex_lock(&lock);
	fprintf(out, "%s\t%d\t%d\t%llu\t%llu\t%llu\t%llu\n", path, up->port, next_port, up->sent, up->sent + length,
		up->received, up->received + have);
	pthread_mutex_unlock(&lock);
	up->sent += length;
	up->received += have;
}

static void *serve(void *argument)
{
	int fd = (int)(long)argument, one = 1;
	struct upstream upstream = { .fd = -1 };
	char buffer[8192], head[8192];
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	for (;;) {
		size_t have = 0;
		long long first = 0, last;
		do {
			ssize_t n = read(fd, buffer + have, sizeof buffer - 1 - have);
			long long after = now();
			if (n <= 0) {
				close(fd);
				if (upstream.fd >= 0)
					close(upstream.fd);
				return NULL;
			}
			if (!have)
				first = after;
			have += n;
			buffer[have] = 0;
		} while (!strstr(buffer, "\r\n\r\n"));
		struct route want = { .size = 2 };
		sscanf(buffer, "%*s %47s", want.path);
		struct route *found = bsearch(&want, table, routes, sizeof *table, by_path), *r = found ? found : &want;
		usleep(r->delay * 1000);
		for (int i = 0; i < r->calls; i++)
			call(&upstream, r->call[i]);
		int length = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", r->size);
		memset(head + length, '.', r->size);
		if (write(fd, head, length + r->size) != length + r->size)
			return NULL;
		last = now();
		note("server", r->path, first, last);
	}
}

int main(int count, char **arguments)
{
	int port = 0, one = 1;
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
		else if (!strcmp(arguments[i], "log"))
			out = fopen(value, "w");
	}
	if (!out)
		out = fopen("/dev/null", "w");
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr = { htonl(INADDR_LOOPBACK) } };
	int listener = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(listener, (struct sockaddr *)&a, sizeof a) || listen(listener, 128))
		return 1;
	for (;;) {
		int fd = accept(listener, NULL, NULL);
		pthread_t thread;
		if (fd >= 0 && !pthread_create(&thread, NULL, serve, (void *)(long)fd))
			pthread_detach(thread);
	}
}
