/* A light closed-loop load generator for HTTP/1.1 with keep-alive and for gRPC: one thread, epoll, loopback only.
 *
 *   loadgen HOST:PORT PATH [-c connections] [-s seconds] [-n requests] [-w warm-up seconds] [-t timeout seconds]
 *           [-T content-type] [-H "Name: value"]... [FILE...]
 *   loadgen -G HOST:PORT /package.Service/Method [...] FILE...
 *
 * Each connection sends a request, waits for its answer and sends the next; the files are the bodies, in turn
 * (none: GET; gRPC: protobuf messages). It ends after -s seconds or -n answers, whichever comes first, and prints one JSON line; `rps` and
 * the latencies are of answers 2xx. Python clients cost as much CPU as the server that they measure; this one takes
 * a few percent of one core.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "answer.h"
#include "grpc.h"
#include "report.h"

enum { MAX_CONNECTIONS = 4096 };
enum state { WAITING, CONNECTING, BUSY }; /* WAITING: until `due`, to connect again */

struct request { char *data; size_t size; };
struct connection {
    int fd, reused, again; /* reused: it has brought an answer; again: to send its request once more */
    enum state state;
    uint32_t events;
    size_t request, sent;
    double start, due;
    struct answer answer;
    struct grpc grpc;
};

static struct connection *connections;
static struct request *requests;
static size_t request_count, next_request;
static struct sockaddr_in target;
static int poller, measuring, grpc; /* grpc: as gRPC */
static char call_head[512];          /* of every gRPC call */
static size_t call_head_size;
static long to_send = -1;    /* -1: no bound but time */
static double timeout_seconds = 30;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double cpu(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

static void want(struct connection *c, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (c->events == events) return;
    if (epoll_ctl(poller, c->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, c->fd, &event)) die("epoll: %s", strerror(errno));
    c->events = events;
}

static void hang_up(struct connection *c, double again) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    c->events = 0;
    c->state = WAITING;
    c->due = again;
}

/* A request that got no answer. A pause keeps a dead server from being hammered. */
static void fail(struct connection *c, enum fault fault) {
    if (measuring) faults[fault]++;
    c->again = 0;
    hang_up(c, now() + 0.02);
}

static void send_on(struct connection *c) {
    const struct request *r = &requests[c->request];
    const char *data = grpc ? c->grpc.out : r->data;
    size_t *sent = grpc ? &c->grpc.out_sent : &c->sent, size = grpc ? c->grpc.out_size : r->size;
    while (*sent < size) {
        ssize_t n = send(c->fd, data + *sent, size - *sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            want(c, EPOLLIN | EPOLLOUT);
            return;
        }
        if (n < 0) break; /* an early answer may still be there to be read */
        *sent += (size_t)n;
    }
    want(c, EPOLLIN);
}

static void begin(struct connection *c) {
    if (!c->again) {
        if (to_send == 0) {
            hang_up(c, 0);
            return;
        }
        if (to_send > 0) to_send--;
        c->request = next_request++ % request_count;
        c->start = now();
    }
    c->again = 0;
    c->state = BUSY;
    c->sent = 0;
    answer_begin(&c->answer);
    if (grpc) {
        if (!c->reused) grpc_open(&c->grpc);
        grpc_begin(&c->grpc, call_head, call_head_size, requests[c->request].data, requests[c->request].size);
    }
    send_on(c);
}

static void dial(struct connection *c) {
    int one = 1;
    c->reused = 0;
    if (!c->again) c->start = now();
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) die("socket: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->state = CONNECTING;
    if (connect(c->fd, (struct sockaddr *)&target, sizeof target) && errno != EINPROGRESS) {
        fail(c, CONNECT);
        return;
    }
    want(c, EPOLLOUT);
}

static void answered(struct connection *c) {
    struct answer *a = &c->answer;
    if (grpc) {
        a->status = c->grpc.answered ? 200 : 500;
        a->close = c->grpc.going;
        c->sent = c->grpc.message_sent;
    }
    if (measuring) count(a->status, a->batch, now() - c->start);
    c->reused = 1;
    if (!a->close && c->sent == requests[c->request].size) begin(c);
    else {
        hang_up(c, 0);
        if (to_send) dial(c);
    }
}

static void receive(struct connection *c) {
    static char buffer[65536];
    for (;;) {
        ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
        if (n <= 0) {
            if (n == 0 && c->answer.part == UNTIL_CLOSE) answered(c);
            else if (c->reused && !c->answer.started) { /* closed while idle: once more, on a new connection */
                if (measuring) reconnects++;
                hang_up(c, 0);
                c->again = 1;
                dial(c);
            } else fail(c, CLOSED);
            return;
        }
        if (measuring) bytes += (uint64_t)n;
        int done;
        if (grpc) {
            done = grpc_take(&c->grpc, buffer, (size_t)n) ? -1 : c->grpc.ended;
            c->answer.started = 1;
            if (!done) send_on(c); /* acknowledgements, and what a wider window lets through */
        } else done = answer_take(&c->answer, buffer, (size_t)n);
        if (done < 0) fail(c, PROTOCOL);
        else if (done) answered(c);
        else continue;
        return;
    }
}

static void react(struct connection *c, uint32_t events) {
    if (c->state == CONNECTING) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error) fail(c, CONNECT);
        else begin(c);
        return;
    }
    if (events & EPOLLOUT) send_on(c);
    if (c->state == BUSY && events & (EPOLLIN | EPOLLERR | EPOLLHUP)) receive(c);
}

static void load(const char *path, const char *file, const char *type, const char *headers) {
    struct request *r = &requests[request_count++];
    char head[8192];
    size_t size = 0, head_size;
    char *body = NULL;
    if (grpc && !file) die("gRPC needs messages");
    if (file) {
        FILE *f = fopen(file, "rb");
        if (!f) die("%s: %s", file, strerror(errno));
        for (size_t n = 1; n; size += n) {
            if (size > 64u << 20) die("%s: over 64 MiB", file);
            body = allocate(body, size + 65536);
            n = fread(body + size, 1, 65536, f);
        }
        fclose(f);
    }
    if (grpc) { /* one byte: not compressed; four: the size */
        r->size = size + 5;
        r->data = allocate(NULL, r->size);
        r->data[0] = 0;
        for (int i = 0; i < 4; i++) r->data[1 + i] = (char)(size >> (24 - 8 * i));
        if (size) memcpy(r->data + 5, body, size);
        free(body);
        return;
    }
    int n = snprintf(head, sizeof head, "%s %s HTTP/1.1\r\nHost: %s:%d\r\nUser-Agent: loadgen\r\n%s",
                     file ? "POST" : "GET", path, inet_ntoa(target.sin_addr), ntohs(target.sin_port), headers);
    if (file && n > 0 && (size_t)n < sizeof head)
        n += snprintf(head + n, sizeof head - (size_t)n, "Content-Type: %s\r\nContent-Length: %zu\r\n", type, size);
    if (n < 0 || (size_t)n + 2 >= sizeof head) die("the request's head is too long");
    head_size = (size_t)n;
    r->size = head_size + 2 + size;
    r->data = allocate(NULL, r->size);
    memcpy(r->data, head, head_size);
    memcpy(r->data + head_size, "\r\n", 2);
    if (size) memcpy(r->data + head_size + 2, body, size);
    free(body);
}

static double number(const char *text, double low, double high) {
    char *end;
    double value = strtod(text, &end);
    if (*end || end == text || !(value >= low && value <= high)) die("%s is not in %g..%g", text, low, high);
    return value;
}

static void aim(char *text) {
    char *colon = strrchr(text, ':');
    if (!colon) die("HOST:PORT, not %s", text);
    *colon = 0;
    target.sin_family = AF_INET;
    target.sin_port = htons((uint16_t)number(colon + 1, 1, 65535));
    if (inet_pton(AF_INET, strcmp(text, "localhost") ? text : "127.0.0.1", &target.sin_addr) != 1 ||
        ntohl(target.sin_addr.s_addr) >> 24 != 127)
        die("%s is not a loopback address: this tool loads the machine that it runs on, and no other", text);
}

int main(int argc, char **argv) {
    int option, wanted = 1;
    double seconds = 10, warm_up = 0;
    const char *type = "application/octet-stream";
    char headers[4096] = "";
    while ((option = getopt(argc, argv, "Gc:s:n:w:t:T:H:")) != -1) switch (option) {
        case 'G': grpc = 1; break;
        case 'c': wanted = (int)number(optarg, 1, MAX_CONNECTIONS); break;
        case 's': seconds = number(optarg, 0.01, 3600); break;
        case 'n': to_send = (long)number(optarg, 1, MAX_ANSWERS); break;
        case 'w': warm_up = number(optarg, 0, 600); break;
        case 't': timeout_seconds = number(optarg, 0.01, 600); break;
        case 'T': type = optarg; break;
        case 'H':
            if (strlen(headers) + strlen(optarg) + 3 > sizeof headers || strpbrk(optarg, "\r\n")) die("bad header");
            strcat(strcat(headers, optarg), "\r\n");
            break;
        default: die("see the top of loadgen.c for the options");
    }
    if (argc - optind < 2) die("HOST:PORT and PATH are missing");
    if (to_send > 0 && warm_up > 0) die("-n and -w exclude each other");
    aim(argv[optind]);
    char host[32];
    snprintf(host, sizeof host, "%s:%d", inet_ntoa(target.sin_addr), ntohs(target.sin_port));
    call_head_size = grpc_head(call_head, sizeof call_head, argv[optind + 1], host);
    if (grpc && !call_head_size) die("the method's name is too long");
    int files = argc - optind - 2;
    requests = allocate(NULL, (size_t)(files ? files : 1) * sizeof *requests);
    for (int i = 0; i < (files ? files : 1); i++)
        load(argv[optind + 1], files ? argv[optind + 2 + i] : NULL, type, headers);
    if ((poller = epoll_create1(EPOLL_CLOEXEC)) < 0) die("epoll: %s", strerror(errno));
    connections = calloc((size_t)wanted, sizeof *connections);
    if (!connections) die("out of memory");
    double origin = now(), from = origin + warm_up, end = from + seconds, swept = 0, t, cpu_from = cpu();
    long all = to_send;
    measuring = warm_up == 0;
    for (int i = 0; i < wanted; i++) connections[i].fd = -1;
    while ((t = now()) < end) {
        if (!measuring && t >= from) {
            measuring = 1;
            from = t;
            end = from + seconds;
            cpu_from = cpu();
        }
        int waiting = 0;
        for (int i = 0; i < wanted && (t - swept >= 0.01 || to_send == 0); i++) {
            struct connection *c = &connections[i];
            if (c->state != WAITING && t - c->start > timeout_seconds) fail(c, TIMEOUT);
            if (c->state == WAITING && to_send == 0) waiting++;
            else if (c->state == WAITING && c->due <= t) dial(c);
        }
        if (t - swept >= 0.01) swept = t;
        if (all > 0 && waiting == wanted) break;
        struct epoll_event events[256];
        int n = epoll_wait(poller, events, 256, 10);
        if (n < 0 && errno != EINTR) die("epoll: %s", strerror(errno));
        for (int i = 0; i < n; i++) react(events[i].data.ptr, events[i].events);
    }
    report(now() - from, cpu() - cpu_from);
    return 0;
}
