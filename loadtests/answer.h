/* An HTTP/1.1 answer as it comes in, byte by byte: where it ends, and the few headers that a load generator needs.
 * The body is skipped. Content-Length, chunked and close-delimited bodies, and interim (1xx) answers. */
#ifndef ANSWER_H
#define ANSWER_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MAX_HEAD = 16384 };
enum part { HEAD, LENGTH, CHUNK_SIZE, CHUNK, CHUNK_END, TRAILER, UNTIL_CLOSE };
struct answer {
    enum part part;
    int status, close, batch;   /* batch: X-Batch-Size, or 0 */
    int started;                /* a byte has come */
    int line;                   /* characters of the present chunk-size or trailer line; -1 in a chunk extension */
    uint64_t left;              /* of the body or the chunk */
    size_t size;
    char head[MAX_HEAD + 1];
};

static void answer_begin(struct answer *a) {
    a->part = HEAD;
    a->status = a->close = a->batch = a->started = a->line = 0;
    a->left = a->size = 0;
}

/* The value of a header line, or NULL if the line is another header's. */
static const char *answer_header(const char *line, const char *name) {
    size_t n = strlen(name);
    if (strncasecmp(line, name, n) || line[n] != ':') return NULL;
    return line + n + 1 + strspn(line + n + 1, " \t");
}

/* Reads a complete head; 0 if it is not HTTP. */
static int answer_head(struct answer *a) {
    int minor = 0, chunked = 0, length = 0;
    if (sscanf(a->head, "HTTP/1.%1d %3d", &minor, &a->status) != 2 || a->status < 100 || a->status > 599) return 0;
    a->close = minor == 0;
    for (char *line = strstr(a->head, "\r\n") + 2; *line != '\r'; line = strstr(line, "\r\n") + 2) {
        const char *value;
        if ((value = answer_header(line, "content-length"))) {
            if (*value < '0' || *value > '9') return 0;
            a->left = strtoull(value, NULL, 10);
            length = 1;
        } else if ((value = answer_header(line, "transfer-encoding"))) chunked = !strncasecmp(value, "chunked", 7);
        else if ((value = answer_header(line, "connection"))) a->close = !strncasecmp(value, "close", 5);
        else if ((value = answer_header(line, "x-batch-size"))) a->batch = atoi(value);
    }
    if (a->status < 200) a->part = HEAD;                        /* the real answer is still to come */
    else if (a->status == 204 || a->status == 304) { a->part = LENGTH; a->left = 0; }
    else if (chunked) { a->part = CHUNK_SIZE; a->left = 0; }
    else if (length) a->part = LENGTH;
    else { a->part = UNTIL_CLOSE; a->close = 1; }
    return 1;
}

static int answer_digit(char b) {
    if (b >= '0' && b <= '9') return b - '0';
    b |= 32;
    return b >= 'a' && b <= 'f' ? b - 'a' + 10 : -1;
}

/* One byte of the framing of a chunked body: 1 at its end, -1 when it is not understood, else 0. */
static int answer_chunk(struct answer *a, char b) {
    if (b == '\r') return 0;
    if (a->part == CHUNK_END) {
        a->part = CHUNK_SIZE;
        return b == '\n' ? 0 : -1;
    }
    if (a->part == TRAILER) {
        if (b == '\n' && !a->line) return 1;
        a->line = b != '\n';
        return 0;
    }
    if (b == '\n') {
        if (!a->line) return -1;
        a->part = a->left ? CHUNK : TRAILER;
        a->line = 0;
    } else if (a->line < 0 || (a->line > 0 && b == ';')) a->line = -1;
    else {
        if (answer_digit(b) < 0 || a->line++ > 8) return -1;
        a->left = a->left * 16 + (uint64_t)answer_digit(b);
    }
    return 0;
}

/* Takes in some bytes: 1 when the answer is complete, 0 when more must come, -1 when it is not understood (or goes
 * on beyond its end: nothing is pipelined here). */
static int answer_take(struct answer *a, const char *data, size_t size) {
    a->started |= size > 0;
    for (size_t i = 0; i < size;) {
        if (a->part == UNTIL_CLOSE) return 0;
        if (a->part == HEAD) {
            if (a->size == MAX_HEAD) return -1;
            a->head[a->size++] = data[i++];
            if (a->size < 4 || memcmp(a->head + a->size - 4, "\r\n\r\n", 4)) continue;
            a->head[a->size] = 0;
            if (strlen(a->head) != a->size || !answer_head(a)) return -1;
            a->size = 0;
            if (a->part == LENGTH && !a->left) return i == size ? 1 : -1;
        } else if (a->part == LENGTH || a->part == CHUNK) {
            uint64_t n = size - i < a->left ? size - i : a->left;
            a->left -= n;
            i += (size_t)n;
            if (a->left) continue;
            if (a->part == LENGTH) return i == size ? 1 : -1;
            a->part = CHUNK_END;
        } else {
            int done = answer_chunk(a, data[i++]);
            if (done) return done > 0 && i == size ? 1 : -1;
        }
    }
    return 0;
}

#endif
