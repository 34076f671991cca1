/* Asks a name server as resolvers do, and prints where the answer came from, and the answer as hexadecimal digits.
 *
 * usage: ask udp|connected-udp|tcp 4|6 ADDRESS QUERY [occupied]
 *
 * With 6 the socket is one of IPv6, and ADDRESS (of IPv4) is mapped. What does not come within 20 s is "nothing". Occupied:
 * while a socket of its own has port 53 of every address. */

#include <arpa/inet.h>
#include <err.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static unsigned char query[65537], answer[65537];

static void print_origin(const struct sockaddr_storage *origin)
{
    const struct sockaddr_in *four = (const void *)origin;
    const struct sockaddr_in6 *six = (const void *)origin;
    char text[INET6_ADDRSTRLEN];
    int is_six = origin->ss_family == AF_INET6;

    inet_ntop(origin->ss_family, is_six ? (const void *)&six->sin6_addr : &four->sin_addr, text, sizeof text);
    printf("%s %u ", text, ntohs(is_six ? six->sin6_port : four->sin_port));
}

static size_t parse(const char *digits, unsigned char *data)
{
    size_t length = strlen(digits) / 2;
    for (size_t i = 0; i < length; i++)
        sscanf(digits + 2 * i, "%2hhx", data + i);
    return length;
}

static void occupy(int type)
{
    struct sockaddr_in every = {.sin_family = AF_INET, .sin_port = htons(53)};
    int fd = socket(AF_INET, type, 0);

    if (bind(fd, (void *)&every, sizeof every) || (type == SOCK_STREAM && listen(fd, 1)))
        err(1, "occupy port 53");
}

int main(int argc, char **argv)
{
    if (argc != 5 && argc != 6)
        errx(2, "usage");
    int tcp = !strcmp(argv[1], "tcp"), connected = tcp || !strcmp(argv[1], "connected-udp"), six = *argv[2] == '6';
    struct sockaddr_storage server = {0}, origin = {0};
    socklen_t length = six ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in), from_length = sizeof origin;
    if (six) {
        struct sockaddr_in6 *address = (void *)&server;
        char mapped[64];
        snprintf(mapped, sizeof mapped, "::ffff:%s", argv[3]);
        *address = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(53)};
        inet_pton(AF_INET6, mapped, &address->sin6_addr);
    } else {
        struct sockaddr_in *address = (void *)&server;
        *address = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(53)};
        inet_pton(AF_INET, argv[3], &address->sin_addr);
    }

    if (argc == 6)
        occupy(tcp ? SOCK_STREAM : SOCK_DGRAM);
    int fd = socket(server.ss_family, tcp ? SOCK_STREAM : SOCK_DGRAM, 0);
    struct timeval patience = {.tv_sec = 20};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    size_t size = parse(argv[4], query + 2);
    query[0] = size >> 8;
    query[1] = size;
    if (connected && connect(fd, (void *)&server, length))
        err(1, "connect");
    const struct sockaddr *to = connected ? NULL : (const void *)&server;
    if ((tcp ? write(fd, query, size + 2) : sendto(fd, query + 2, size, 0, to, to ? length : 0)) < 0)
        err(1, "send");

    ssize_t got = 0;
    unsigned char *message = answer;
    if (tcp) {
        size_t whole = 2;
        for (ssize_t part; (size_t)got < whole; got += part) {
            part = read(fd, answer + got, whole - got);
            if (part <= 0)
                break;
            if (got + part >= 2)
                whole = 2 + (answer[0] << 8 | answer[1]);
        }
        message += 2;
        got -= 2;
        getpeername(fd, (void *)&origin, &from_length);
    } else {
        got = recvfrom(fd, answer, sizeof answer, 0, (void *)&origin, &from_length);
    }
    if (got <= 0) {
        puts("nothing");
        return 0;
    }
    print_origin(&origin);
    for (ssize_t i = 0; i < got; i++)
        printf("%02x", message[i]);
    putchar('\n');
    return 0;
}
