/* A program that is hard luck for whoever looks into it while it runs.
 *
 *     unlucky answer port=N                  answers every request
 *     unlucky serve port=N next=PORT         gives up, and gets back, what its epoll words point at, while a thread that did not
 *                                            read the request makes the call to `next`, and answers
 *     unlucky exec next=PORT                 a request, and then itself again, after 150 to 350 ms
 *
 * It exports the symbols by which a Python is known, over memory that points at itself. What is asked for under /unlucky/ in its
 * own name must come out as spans without a parent inside this process: nothing in it proves one. It must never do harm beyond
 * its own memory. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* 64 KiB of pointers into themselves, so that each guess leads somewhere and round in circles. */
unsigned long _PyRuntime[8192], PyContext_Type[64];
void *PyContext_CopyCurrent(void) { return _PyRuntime; }

static int argument(int count, char **all, const char *name)
{
	for (int i = 2; i < count; i++)
		if (!strncmp(all[i], name, strlen(name)))
			return atoi(all[i] + strlen(name));
	return 0;
}

static struct sockaddr_in at(int port)
{
	return (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
}

static int listener(int port)
{
	struct sockaddr_in to = at(port);
	int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(fd, (void *)&to, sizeof to) || listen(fd, 128))
		exit(2);
	return fd;
}

/* One request of its own connection: whether it was answered. */
static int call(int port, const char *path)
{
	char buffer[512];
	struct sockaddr_in to = at(port);
	int fd = socket(AF_INET, SOCK_STREAM, 0), got = 0;
	if (!connect(fd, (void *)&to, sizeof to)) {
		int length = snprintf(buffer, sizeof buffer, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path);
		if (write(fd, buffer, length) == length)
			got = read(fd, buffer, sizeof buffer) > 0;
	}
	close(fd);
	return got;
}

static int answered(int fd)
{
	static const char text[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
	return write(fd, text, sizeof text - 1) == sizeof text - 1;
}

static int pipes[2], next;

static void *worker(void *_)
{
	int fd;
	for (unsigned long number = 0; read(pipes[0], &fd, sizeof fd) == sizeof fd; number++) {
		char path[64];
		snprintf(path, sizeof path, "/unlucky/call/%d-%lu", getpid(), number);
		call(next, path);
		answered(fd);
	}
	return _;
}

/* Pages for the words of connections: there, gone, and there again. */
#define PAGES 64
static char *pages;

static void *flicker(void *_)
{
	for (unsigned n = 0;; n++) {
		char *page = pages + (n % PAGES) * 4096;
		munmap(page, 4096);
		usleep(200);
		if (mmap(page, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
			exit(3);
		memset(page, 0x41 + n % 26, 4096);
	}
	return _;
}

static void serve(int port)
{
	pthread_t thread;
	struct epoll_event event = { .events = EPOLLIN };
	int in = listener(port), set = epoll_create1(0), used = 0;
	pages = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (pipe(pipes) || pages == MAP_FAILED)
		exit(2);
	pthread_create(&thread, NULL, flicker, NULL);
	for (int i = 0; i < 4; i++)
		pthread_create(&thread, NULL, worker, NULL);
	event.data.u64 = 0;
	epoll_ctl(set, EPOLL_CTL_ADD, in, &event);
	static int fds[1 << 16];
	for (;;) {
		if (epoll_wait(set, &event, 1, -1) != 1)
			continue;
		if (event.data.u64 == 0) {
			int fd = accept4(in, NULL, NULL, SOCK_NONBLOCK);
			char *word = pages + (used % PAGES) * 4096 + (used / PAGES % 64) * 64;
			if (fd < 0)
				continue;
			fds[used % 4096] = fd;
			event.data.ptr = word;
			used++;
			epoll_ctl(set, EPOLL_CTL_ADD, fd, &event);
			continue;
		}
		for (int i = 0; i < 4096; i++) {
			char buffer[1024];
			if (!fds[i])
				continue;
			long got = read(fds[i], buffer, sizeof buffer);
			if (got > 0)
				got = write(pipes[1], &fds[i], sizeof fds[i]);
			else if (got == 0) {
				close(fds[i]);
				fds[i] = 0;
			}
		}
	}
}

int main(int count, char **all)
{
	if (count < 2)
		return 2;
	for (int i = 0; i < 8192; i++)
		_PyRuntime[i] = (unsigned long)&_PyRuntime[i * 7 % 8192];
	next = argument(count, all, "next=");
	if (!strcmp(all[1], "answer")) {
		int in = listener(argument(count, all, "port="));
		for (;;) {
			char buffer[1024];
			int fd = accept(in, NULL, NULL);
			while (read(fd, buffer, sizeof buffer) > 0 && answered(fd))
				;
			close(fd);
		}
	}
	if (!strcmp(all[1], "serve"))
		serve(argument(count, all, "port="));
	char path[64];
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	snprintf(path, sizeof path, "/unlucky/exec/%d-%ld", getpid(), now.tv_nsec);
	call(next, path);
	usleep(150000 + now.tv_nsec / 1000 % 200000);
	execv("/proc/self/exe", all);
	return 3;
}
