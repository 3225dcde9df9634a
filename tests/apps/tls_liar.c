/* A program that would harm who reads its TLS by probes: it has the functions of OpenSSL, and all that they say is a lie.
 *
 *     tls_liar PORT FILE    sends one hello to PORT, lies, also of the sessions in FILE, prints `ready`, waits
 *
 * FILE has the random bytes of a hello in each line, as 64 digits: whoever sees the wire sees them.
 * It says that the sessions of others are its own, that it moved more than its buffer
 * holds, or what lies where nothing is mapped; it leaves calls without returning, and lets the count of bytes be where it cannot be read.
 * Nothing here knows that it is traced. */
#include <alloca.h>
#include <arpa/inet.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* As much of OpenSSL 3.0's session as is read of one. */
struct session {
	char before[0x38];
	int server;
	char between[0x160 - 0x38 - sizeof(int)];
	unsigned char random[32];
};

static jmp_buf out;
static volatile int sink;

#define EXPORTED __attribute__((noinline, noclone, visibility("default")))

EXPORTED int SSL_stateless(void *session)
{
	sink = 1;
	return session != NULL;
}

EXPORTED int SSL_is_server(const struct session *session)
{
	return session->server;
}

EXPORTED size_t SSL_get_client_random(const struct session *session, unsigned char *to, size_t length)
{
	if (length == 0)
		return 32;
	memcpy(to, session->random, length);
	return length;
}

/* It returns what it is told to, or does not. */
EXPORTED int SSL_read(struct session *session, void *buffer, int result)
{
	sink = (session != NULL) + (buffer != NULL);
	if (result == -2)
		longjmp(out, 1);
	return result;
}

EXPORTED int SSL_write(struct session *session, const void *buffer, int result)
{
	sink = (session != NULL) - (buffer != NULL);
	if (result == -2)
		longjmp(out, 1);
	return result;
}

EXPORTED int SSL_write_ex(struct session *session, const void *buffer, size_t length, size_t *moved)
{
	sink = (session != NULL) - (buffer != NULL) + (moved != NULL) * 3 + (int)length;
	return 1;
}

/* A hello of TLS 1.3 without anything that is optional, with these random bytes. */
static void hello(int fd, const unsigned char *random)
{
	unsigned char bytes[5 + 4 + 2 + 32 + 1 + 2 + 2 + 2 + 2] = { 22, 3, 1, 0, 47, 1, 0, 0, 43, 3, 3 };
	memcpy(bytes + 11, random, 32);
	memcpy(bytes + 43, "\0\0\x02\x13\x01\x01\0\0\0", 9);
	if (send(fd, bytes, sizeof bytes, MSG_NOSIGNAL) != sizeof bytes)
		exit(3);
}

/* Leaves a call from deeper and deeper in the stack, so that each looks like another. */
static void leave(struct session *session, int depth)
{
	volatile char *room = alloca((size_t)depth * 16 + 16);
	room[0] = 1;
	if (!setjmp(out))
		SSL_read(session, (void *)room, -2);
}

int main(int count, char **arguments)
{
	static const char request[] = "GET /lie HTTP/1.1\r\nHost: localhost\r\n\r\n";
	static struct session session, other;
	void (*volatile keep[])(void) = { (void (*)(void))SSL_stateless, (void (*)(void))SSL_get_client_random };
	if (count != 3 || !keep[0])
		return 2;
	struct sockaddr_in at = { AF_INET, htons(atoi(arguments[1])), { htonl(INADDR_LOOPBACK) }, { 0 } };
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	if (connect(fd, (struct sockaddr *)&at, sizeof at) < 0)
		return 3;
	/* Until whoever looks at programs that begin has looked. */
	sleep(1);
	memset(session.random, 7, 32);
	hello(fd, session.random);
	FILE *wire = fopen(arguments[2], "r");
	for (int round = 0; round < 2000; round++) {
		session.server = SSL_is_server(&session) ^ one;
		SSL_write(&session, request, sizeof request - 1);
		SSL_write(&session, request, 1 << 30);
		SSL_write(&session, request, 0x7fffffff);
		SSL_read(&session, (void *)16, 100000);
		SSL_read((void *)0x7fff00000000, NULL, -1);
		SSL_write_ex(&session, request, 10, (size_t *)8);
		leave(&session, round);
	}
	char line[80];
	while (wire && fgets(line, sizeof line, wire))
		for (int server = 0; server < 2; server++) {
			for (int n = 0; n < 32; n++)
				sscanf(line + 2 * n, "%2hhx", &other.random[n]);
			other.server = server;
			SSL_write(&other, request, sizeof request - 1);
			SSL_read(&other, (void *)request, sizeof request - 1);
		}
	printf("ready\n");
	fflush(stdout);
	pause();
	return 0;
}
