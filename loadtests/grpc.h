/* One unary gRPC call at a time over HTTP/2 without TLS (RFC 9113): the frames that go out, within both flow-control
 * windows, and those that come in. Header blocks are not decoded: a call that brings a message is taken as good
 * (status 200), one that ends without as failed (500), which is how gRPC answers errors. */
#ifndef GRPC_H
#define GRPC_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { H2_DATA, H2_HEADERS, H2_PRIORITY, H2_RST_STREAM, H2_SETTINGS, H2_PUSH_PROMISE, H2_PING, H2_GOAWAY,
       H2_WINDOW_UPDATE };
enum { H2_END_STREAM = 1, H2_ACK = 1, H2_END_HEADERS = 4, H2_FRAME = 16384, H2_WINDOW = 65535 };

struct grpc {
    uint32_t stream;             /* of the present call: 1, 3, 5 ... */
    int64_t window, stream_window, initial_window;
    const char *message;         /* of the present call, with its five bytes of prefix */
    size_t message_size, message_sent;
    char *out;                   /* frames that are to be sent */
    size_t out_size, out_sent, out_room;
    unsigned char head[9], keep[64]; /* the frame that comes in: its header, and the first bytes of what it holds */
    size_t head_size, size, taken;
    int answered, ended, going;  /* the call brought a message; the call is over; the server wants to hang up */
};

static uint32_t grpc_number(const unsigned char *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void grpc_put(struct grpc *g, const void *data, size_t size) {
    if (g->out_sent == g->out_size) g->out_sent = g->out_size = 0;
    if (g->out_size + size > g->out_room) {
        g->out_room = 2 * (g->out_size + size);
        g->out = realloc(g->out, g->out_room);
        if (!g->out) abort();
    }
    if (size) memcpy(g->out + g->out_size, data, size);
    g->out_size += size;
}

static void grpc_frame(struct grpc *g, int type, int flags, uint32_t stream, const void *data, size_t size) {
    unsigned char head[9] = {(unsigned char)(size >> 16), (unsigned char)(size >> 8), (unsigned char)size,
                             (unsigned char)type, (unsigned char)flags, (unsigned char)(stream >> 24),
                             (unsigned char)(stream >> 16), (unsigned char)(stream >> 8), (unsigned char)stream};
    grpc_put(g, head, sizeof head);
    grpc_put(g, data, size);
}

static void grpc_allow(struct grpc *g, uint32_t stream, uint32_t more) {
    unsigned char data[4] = {(unsigned char)(more >> 24), (unsigned char)(more >> 16), (unsigned char)(more >> 8),
                             (unsigned char)more};
    grpc_frame(g, H2_WINDOW_UPDATE, 0, stream, data, sizeof data);
}

/* The header block of every call (HPACK, RFC 7541, without its tables' and Huffman's savings); 0: too long. */
static size_t grpc_head(char *out, size_t room, const char *path, const char *host) {
    if (strlen(path) > 126 || strlen(host) > 126) return 0;
    return (size_t)snprintf(out, room,
                            "\x83\x86\x04%c%s\x01%c%s\x0f\x10\x10" "application/grpc%c\x02te\x08trailers",
                            (char)strlen(path), path, (char)strlen(host), host, 0);
}

/* As much of the message as both windows let through. */
static void grpc_pump(struct grpc *g) {
    while (g->message_sent < g->message_size && g->window > 0 && g->stream_window > 0) {
        int64_t n = (int64_t)(g->message_size - g->message_sent);
        if (n > H2_FRAME) n = H2_FRAME;
        if (n > g->window) n = g->window;
        if (n > g->stream_window) n = g->stream_window;
        int last = g->message_sent + (size_t)n == g->message_size;
        grpc_frame(g, H2_DATA, last ? H2_END_STREAM : 0, g->stream, g->message + g->message_sent, (size_t)n);
        g->message_sent += (size_t)n;
        g->window -= n;
        g->stream_window -= n;
    }
}

/* A new connection. */
static void grpc_open(struct grpc *g) {
    char *out = g->out;
    size_t room = g->out_room;
    memset(g, 0, sizeof *g);
    g->out = out;
    g->out_room = room;
    g->window = g->initial_window = H2_WINDOW;
    grpc_put(g, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
    grpc_frame(g, H2_SETTINGS, 0, 0, NULL, 0);
}

/* The next call on a connection: `head` is its header block. */
static void grpc_begin(struct grpc *g, const char *head, size_t head_size, const char *message, size_t size) {
    g->stream = g->stream ? g->stream + 2 : 1;
    g->stream_window = g->initial_window;
    g->message = message;
    g->message_size = size;
    g->message_sent = 0;
    g->answered = g->ended = 0;
    grpc_frame(g, H2_HEADERS, H2_END_HEADERS, g->stream, head, head_size);
    grpc_pump(g);
}

/* A complete frame: 0 if the connection can go on. */
static int grpc_react(struct grpc *g) {
    int type = g->head[3], flags = g->head[4];
    uint32_t stream = grpc_number(g->head + 5) & 0x7fffffff;
    int mine = stream == g->stream;
    switch (type) {
    case H2_DATA:
        if (g->size) grpc_allow(g, 0, (uint32_t)g->size);
        if (g->size && mine && !(flags & H2_END_STREAM)) grpc_allow(g, stream, (uint32_t)g->size);
        if (mine && g->size) g->answered = 1;
        if (mine && flags & H2_END_STREAM) g->ended = 1;
        break;
    case H2_HEADERS:
        if (mine && flags & H2_END_STREAM) g->ended = 1;
        break;
    case H2_RST_STREAM:
        if (mine) g->ended = 1;
        break;
    case H2_SETTINGS:
        if (flags & H2_ACK) break;
        for (size_t at = 0; at + 6 <= g->size && at + 6 <= sizeof g->keep; at += 6)
            if (g->keep[at] == 0 && g->keep[at + 1] == 4) { /* SETTINGS_INITIAL_WINDOW_SIZE */
                int64_t size = grpc_number(g->keep + at + 2);
                g->stream_window += size - g->initial_window;
                g->initial_window = size;
            }
        grpc_frame(g, H2_SETTINGS, H2_ACK, 0, NULL, 0);
        grpc_pump(g);
        break;
    case H2_PING:
        if (!(flags & H2_ACK)) grpc_frame(g, H2_PING, H2_ACK, 0, g->keep, 8);
        break;
    case H2_WINDOW_UPDATE:
        if (stream == 0) g->window += grpc_number(g->keep) & 0x7fffffff;
        else if (mine) g->stream_window += grpc_number(g->keep) & 0x7fffffff;
        grpc_pump(g);
        break;
    case H2_GOAWAY:
        g->going = 1;
        break;
    case H2_PUSH_PROMISE:
        return -1;
    default:
        break;
    }
    return 0;
}

/* Takes in some bytes; -1 when they are not understood. Whether the call is over stands in `ended`. */
static int grpc_take(struct grpc *g, const char *data, size_t size) {
    for (size_t i = 0; i < size;) {
        if (g->head_size < sizeof g->head) {
            g->head[g->head_size++] = (unsigned char)data[i++];
            if (g->head_size < sizeof g->head) continue;
            g->size = (size_t)g->head[0] << 16 | (size_t)g->head[1] << 8 | g->head[2];
            g->taken = 0;
            if (g->size > H2_FRAME) return -1; /* more than we said that we take, or no HTTP/2 at all */
        } else {
            size_t n = size - i < g->size - g->taken ? size - i : g->size - g->taken;
            if (g->taken < sizeof g->keep) {
                size_t kept = n < sizeof g->keep - g->taken ? n : sizeof g->keep - g->taken;
                memcpy(g->keep + g->taken, data + i, kept);
            }
            g->taken += n;
            i += n;
        }
        if (g->taken == g->size) {
            if (grpc_react(g)) return -1;
            g->head_size = 0;
        }
    }
    return 0;
}

#endif
