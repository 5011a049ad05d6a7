/* The ceiling for a tunnel: CONNECT answered unread, then nothing but epoll and splice(2), one tunnel at a time.
   No policy, no pass, no record, no limit, no half-close. `splice PORT ORIGIN`, both on 127.0.0.1. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PIPE = 1 << 20 };

static int bring(int from, int to, const int pipe[2], int full)
{
	for (;;) {
		ssize_t held = splice(from, NULL, pipe[1], NULL, PIPE, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
		if (held <= 0)
			return held < 0 && errno == EAGAIN;
		while (held > 0) {
			ssize_t gone = splice(pipe[0], NULL, to, NULL, held, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
			struct epoll_event room = {.events = EPOLLOUT};
			if (gone > 0) {
				held -= gone;
			} else if (gone < 0 && errno == EAGAIN) {
				epoll_ctl(full, EPOLL_CTL_ADD, to, &room);
				epoll_wait(full, &room, 1, -1);
				epoll_ctl(full, EPOLL_CTL_DEL, to, NULL);
			} else {
				return 0;
			}
		}
	}
}

static void carry(int client, int origin, const int pipe[2])
{
	int ready = epoll_create1(0), full = epoll_create1(0), open = 1;
	struct epoll_event ends[2] = {{.events = EPOLLIN, .data.fd = client}, {.events = EPOLLIN, .data.fd = origin}};
	epoll_ctl(ready, EPOLL_CTL_ADD, client, &ends[0]);
	epoll_ctl(ready, EPOLL_CTL_ADD, origin, &ends[1]);
	while (open) {
		int count = epoll_wait(ready, ends, 2, -1);
		for (int n = 0; n < count && open; n++)
			open = bring(ends[n].data.fd, ends[n].data.fd == client ? origin : client, pipe, full);
	}
	close(ready);
	close(full);
}

int main(int count, char **words)
{
	int one = 1, listening = socket(AF_INET, SOCK_STREAM, 0), pipe[2];
	struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}, there = here;
	if (count != 3)
		return 2;
	here.sin_port = htons(atoi(words[1]));
	there.sin_port = htons(atoi(words[2]));
	setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(listening, (void *)&here, sizeof here) || listen(listening, 16) || pipe2(pipe, O_NONBLOCK))
		return 1;
	fcntl(pipe[1], F_SETPIPE_SZ, PIPE);
	for (;;) {
		char head[4096];
		int client = accept(listening, NULL, NULL), origin = socket(AF_INET, SOCK_STREAM, 0);
		if (recv(client, head, sizeof head, 0) > 0 && !connect(origin, (void *)&there, sizeof there)) {
			send(client, "HTTP/1.1 200 OK\r\n\r\n", 19, 0);
			fcntl(client, F_SETFL, O_NONBLOCK);
			fcntl(origin, F_SETFL, O_NONBLOCK);
			carry(client, origin, pipe);
		}
		close(client);
		close(origin);
	}
}
