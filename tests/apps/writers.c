/* Eight threads that write whole requests to one socket, with no lock.
 *
 *     writers PORT FILE
 *
 * FILE holds one path a line; thread i sends lines i, i + 8, ... as pipelined requests, each with one write. One more
 * thread reads and throws away what comes back. Ends when as many responses came as requests were sent.
 * It must never order the writes: two of them racing for the socket is the point. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define THREADS 8
/* Requests that may be unanswered at once: all of them fit into one block of what is captured of a call. */
#define UNANSWERED 48
static char (*path)[64];
static size_t paths;
static int fd;
static atomic_size_t sent, answered;

static void *sender(void *argument)
{
	char request[256];
	for (size_t i = (size_t)argument; i < paths; i += THREADS) {
		int length = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path[i]);
		while (atomic_load(&sent) - atomic_load(&answered) >= UNANSWERED)
			usleep(50);
		atomic_fetch_add(&sent, 1);
		if (send(fd, request, length, MSG_NOSIGNAL) != length)
			exit(3);
	}
	return NULL;
}

int main(int count, char **arguments)
{
	char line[64], buffer[65536];
	size_t room = 0;
	FILE *in = count == 3 ? fopen(arguments[2], "r") : NULL;
	if (!in)
		return 2;
	while (fgets(line, sizeof line, in)) {
		line[strcspn(line, "\n")] = 0;
		if (paths == room)
			path = realloc(path, (room = room ? room * 2 : 1024) * sizeof *path);
		strcpy(path[paths++], line);
	}
	int one = 1;
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(atoi(arguments[1])), .sin_addr = { htonl(INADDR_LOOPBACK) } };
	fd = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(fd, (struct sockaddr *)&a, sizeof a))
		return 1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	pthread_t thread[THREADS];
	for (size_t i = 0; i < THREADS; i++)
		pthread_create(&thread[i], NULL, sender, (void *)i);
	/* A response ends with a body that is one '#'. */
	for (size_t done = 0; done < paths;) {
		ssize_t n = read(fd, buffer, sizeof buffer);
		if (n <= 0)
			return 4;
		for (ssize_t i = 0; i < n; i++)
			done += buffer[i] == '#';
		atomic_store(&answered, done);
	}
	return 0;
}
