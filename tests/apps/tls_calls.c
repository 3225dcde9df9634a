/* HTTP/1.1 over OpenSSL by all the calls that move plaintext, and in all the ways in which they may fail to at first.
 *
 *     tls_calls serve PORT CERTIFICATE KEY
 *     tls_calls client PORT PREFIX COUNT    asks for PREFIX-0, PREFIX-1, ... one after the other
 *
 * Sockets are non-blocking and their buffers small, bodies are long in both directions, and every other one is read late: writes
 * are refused in the middle and repeated with the same bytes. Reads look before they take. The client has two connections;
 * odd numbers go over the second, from inside a call that writes to the first. Nothing here knows that it is traced. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BODY (300 * 1024)

struct connection {
	SSL *ssl;
	/* Which call is used next. */
	unsigned turn;
	char input[16384];
	size_t has;
};

static unsigned long refused, nested;
static char body[BODY];

static void fail(const char *what)
{
	perror(what);
	exit(3);
}

/* Waits until a call that was refused may be repeated; 0 at the end of the connection. */
static int repeat(SSL *ssl, int result)
{
	int error = SSL_get_error(ssl, result);
	short events = error == SSL_ERROR_WANT_WRITE ? POLLOUT : POLLIN;
	if (error != SSL_ERROR_WANT_WRITE && error != SSL_ERROR_WANT_READ)
		return 0;
	struct pollfd one = { SSL_get_fd(ssl), events, 0 };
	__atomic_add_fetch(&refused, error == SSL_ERROR_WANT_WRITE, __ATOMIC_RELAXED);
	if (poll(&one, 1, 20000) != 1)
		fail("nothing for 20 s");
	return 1;
}

/* One write, by either call. */
static int once(struct connection *to, const char *bytes, size_t length, size_t *moved)
{
	if (to->turn % 2)
		return SSL_write_ex(to->ssl, bytes, length, moved);
	int result = SSL_write(to->ssl, bytes, (int)length);
	*moved = result > 0 ? (size_t)result : 0;
	return result;
}

static int put(struct connection *to, const char *bytes, size_t length)
{
	for (size_t moved; length > 0; bytes += moved, length -= moved, to->turn++) {
		int result;
		while ((result = once(to, bytes, length, &moved)) <= 0)
			if (!repeat(to->ssl, result))
				return 0;
	}
	return 1;
}

/* Adds to what was read: looks at it first, by either call, and takes it by either. */
static int get(struct connection *from)
{
	char seen[4096];
	size_t room = sizeof from->input - from->has, moved = 0;
	if (room > sizeof seen)
		room = sizeof seen;
	for (;;) {
		int result = from->turn % 3 == 0   ? SSL_peek(from->ssl, seen, (int)room)
			     : from->turn % 3 == 1 ? SSL_peek_ex(from->ssl, seen, room, &moved)
						   : 1;
		if (result > 0) {
			if (from->turn % 2) {
				result = SSL_read_ex(from->ssl, from->input + from->has, room, &moved);
			} else {
				result = SSL_read(from->ssl, from->input + from->has, (int)room);
				moved = result > 0 ? (size_t)result : 0;
			}
		}
		if (result > 0) {
			from->turn++;
			from->has += moved;
			return 1;
		}
		if (!repeat(from->ssl, result))
			return 0;
	}
}

/* Reads a message with a Content-Length; its first line stands in `line` then. */
static int message(struct connection *from, char *line, size_t room, int late)
{
	char *end;
	while (from->input[from->has] = 0, !(end = strstr(from->input, "\r\n\r\n"))) {
		if (from->has + 1 >= sizeof from->input || !get(from))
			return 0;
	}
	char *length = strstr(from->input, "Content-Length: ");
	size_t left = length ? strtoul(length + 16, NULL, 10) : 0;
	snprintf(line, room, "%.*s", (int)strcspn(from->input, "\r"), from->input);
	size_t head = (size_t)(end + 4 - from->input), here = from->has - head;
	if (late)
		usleep(2000);
	for (;;) {
		size_t taken = here < left ? here : left;
		left -= taken;
		if (left == 0) {
			memmove(from->input, from->input + head + taken, here - taken);
			from->has = here - taken;
			return 1;
		}
		from->has = head = 0;
		if (!get(from))
			return 0;
		here = from->has;
	}
}

static void prepare(int fd)
{
	int small = 16384, yes = 1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
	if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
		fail("fcntl");
}

static void *serve(void *argument)
{
	struct connection *client = argument;
	char line[256], path[200], head[128];
	int result;
	while ((result = SSL_accept(client->ssl)) <= 0)
		if (!repeat(client->ssl, result))
			goto over;
	for (unsigned number = 0; message(client, line, sizeof line, number % 2); number++) {
		if (sscanf(line, "%*s %199s", path) != 1)
			break;
		int length = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", BODY);
		if (!put(client, head, (size_t)length) || !put(client, body, BODY))
			break;
	}
over:
	close(SSL_get_fd(client->ssl));
	SSL_free(client->ssl);
	free(client);
	return NULL;
}

static void server(int port, const char *certificate, const char *key)
{
	SSL_CTX *context = SSL_CTX_new(TLS_server_method());
	if (!SSL_CTX_use_certificate_file(context, certificate, SSL_FILETYPE_PEM) ||
	    !SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM))
		fail("the certificate");
	SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE);
	struct sockaddr_in at = { AF_INET, htons(port), { htonl(INADDR_LOOPBACK) } };
	int yes = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
	if (bind(listener, (struct sockaddr *)&at, sizeof at) < 0 || listen(listener, 64) < 0)
		fail("listen");
	for (;;) {
		pthread_t thread;
		int fd = accept(listener, NULL, NULL);
		if (fd < 0)
			continue;
		prepare(fd);
		struct connection *client = calloc(1, sizeof *client);
		client->ssl = SSL_new(context);
		SSL_set_fd(client->ssl, fd);
		pthread_create(&thread, NULL, serve, client);
		pthread_detach(thread);
	}
}

static int port, count, next;
static const char *prefix;
static struct connection inner;

static void ask(struct connection *over, int number)
{
	char head[256], line[256];
	int length = snprintf(head, sizeof head, "POST %s-%d HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n", prefix,
			      number, BODY);
	if (!put(over, head, (size_t)length) || !put(over, body, BODY) || !message(over, line, sizeof line, number % 3 == 0) ||
	    !strstr(line, " 200 "))
		fail("a request");
}

/* OpenSSL writes to the socket of the outer session, from inside a call of ours: a whole request over the other session. */
static long writes(BIO *bio, int operation, const char *bytes, size_t length, int a, long b, int result, size_t *moved)
{
	static int inside;
	if (operation == BIO_CB_WRITE && !inside && next % 2 && next < count) {
		inside = 1;
		nested++;
		ask(&inner, next++);
		inside = 0;
	}
	(void)bio, (void)bytes, (void)length, (void)a, (void)b, (void)moved;
	return result;
}

static void join(struct connection *to, SSL_CTX *context)
{
	struct sockaddr_in at = { AF_INET, htons(port), { htonl(INADDR_LOOPBACK) } };
	int result, fd = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(fd, (struct sockaddr *)&at, sizeof at) < 0)
		fail("connect");
	prepare(fd);
	to->ssl = SSL_new(context);
	SSL_set_fd(to->ssl, fd);
	while ((result = SSL_connect(to->ssl)) <= 0)
		if (!repeat(to->ssl, result))
			fail("the handshake");
}

int main(int arguments, char **argument)
{
	signal(SIGPIPE, SIG_IGN);
	memset(body, 'x', sizeof body);
	if (arguments == 5 && !strcmp(argument[1], "serve"))
		server(atoi(argument[2]), argument[3], argument[4]);
	if (arguments != 5)
		return 2;
	static struct connection outer;
	/* As long as a larger program takes to begin. */
	usleep(300000);
	port = atoi(argument[2]), prefix = argument[3], count = atoi(argument[4]);
	SSL_CTX *context = SSL_CTX_new(TLS_client_method());
	join(&outer, context);
	join(&inner, context);
	BIO_set_callback_ex(SSL_get_wbio(outer.ssl), writes);
	while (next < count)
		ask(&outer, next++);
	if (refused == 0 || (count > 1 && nested == 0))
		return 4;
	printf("%lu writes were refused at first, %lu requests were made inside a call\n", refused, nested);
	return 0;
}
