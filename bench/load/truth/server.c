/* A server whose timing is known: OpenAI streaming completions and chat on a schedule, every send time logged.
 *
 * One thread, one epoll, one timerfd. Tokens of a request leave at received + ttft + k * itl, where received is the
 * kernel's stamp of its last byte, however late it is read here. Every send is logged with CLOCK_MONOTONIC just before
 * write(2); GET /truth/log hands the log out and empties it, GET /truth/pace likewise how long the same arithmetic took,
 * sampled every millisecond while there is something to do. The request's number is the last number of its
 * X-Request-Id header. What goes wrong is chosen by the model's name: "truth", "truth:FAULT", or
 * "truth:FAULT:N" for the requests whose number is a multiple of N.
 *
 * With --slots N only N requests are worked on at once: the others wait in order of arrival, and their ttft begins when
 * a slot becomes free. So the capacity is known: N / (ttft + (tokens - 1) * itl).
 *
 * With --by-arrival requests are numbered as they come instead, from FIRST on: for clients whose ids do not count.
 *
 * usage: server --ready-fd FD [--port P] [--ttft-us N] [--itl-us N] [--tokens N] [--slots N] [--cpu N] [--by-arrival FIRST]
 * With TRUTH_API_KEY in the environment, requests without that bearer token get a 401.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum fault {
    NONE, ERROR_EVENT, TRUNCATE, RESET, STALL, STALL_FIRST, HTTP_500, NO_USAGE, NO_DONE, EARLY_DONE, BAD_JSON, BAD_UTF8,
    BAD_CHUNK, DROP, NOT_STREAM, CRLF, SPLIT, COALESCE, MULTI, CLOSE_DELIMITED, SAY_CLOSE, SILENT_CLOSE, RUNNING_USAGE,
    COMMENTS, TRICKLE, DIE, CR, EARLY_HINTS, TRICKLE_HEAD, HUGE_HEAD, HUGE_EVENT, USAGE_LIES, FAULTS
};
static const char *const fault_names[FAULTS] = {
    "", "error_event", "truncate", "reset", "stall", "stall_first", "http_500", "no_usage", "no_done", "early_done",
    "bad_json", "bad_utf8", "bad_chunk", "drop", "not_stream", "crlf", "split", "coalesce", "multi", "close_delimited",
    "say_close", "silent_close", "running_usage", "comments", "trickle", "die", "cr", "early_hints", "trickle_head",
    "huge_head", "huge_event", "usage_lies"
};

struct record { uint32_t request, index; int64_t ns; }; /* index 0: received; k: the k-th token-bearing event sent */

struct pace { int64_t ns, took_ns; };

struct connection {
    int fd, active, chat, usage, prompt_tokens;
    enum fault fault;
    uint32_t request;
    int tokens, sent, events, half_done;
    int64_t arrived_ns, base_ns, next_ns;
    int holds_slot;
    struct connection *behind; /* the next one that waits for a slot */
    size_t heap; /* place in the heap, 1-based; 0: not in it */
    char *in; size_t in_size, in_room;
    char *out; size_t out_size, out_room; /* what the kernel did not take yet */
};

static struct record *records; static size_t record_count, record_room;
static struct pace *paces; static size_t pace_count, pace_room;
static struct connection **heap; static size_t heap_size, heap_room;
static int64_t ttft_ns = 100000000, itl_ns = 10000000;
static int default_tokens = 128, poller;
static int slots, busy; /* requests worked on at once (0: all), and now */
static struct connection *waiting;
static const char *api_key;
static uint32_t by_arrival; /* when not 0: the number of the next request */

static int64_t clock_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int64_t now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

static void *grow(void *block, size_t size) {
    void *grown = realloc(block, size);
    if (!grown) { perror("realloc"); exit(1); }
    return grown;
}

static void log_send(uint32_t request, uint32_t index, int64_t ns) {
    if (record_count == record_room) records = grow(records, (record_room = record_room ? 2 * record_room : 65536) * sizeof *records);
    records[record_count++] = (struct record){request, index, ns};
}

/* How fast is the core just now? Some 500 dependent multiplications, a microsecond or less. */
static void sample_pace(void) {
    static volatile uint32_t kept;
    static int64_t last_ns;
    int64_t begun = now_ns();
    if (begun - last_ns < 1000000) return;
    last_ns = begun;
    uint32_t x = kept;
    for (int i = 0; i < 500; i++) x = x * 1664525 + 1013904223;
    kept = x;
    if (pace_count == pace_room) paces = grow(paces, (pace_room = pace_room ? 2 * pace_room : 16384) * sizeof *paces);
    paces[pace_count++] = (struct pace){begun, now_ns() - begun};
}

/* ---- a binary heap of connections by next_ns */

static void place(size_t i, struct connection *c) { heap[i] = c; c->heap = i; }

static void sift(size_t i) {
    struct connection *c = heap[i];
    for (; i > 1 && heap[i / 2]->next_ns > c->next_ns; i /= 2) place(i, heap[i / 2]);
    for (;;) {
        size_t child = 2 * i;
        if (child > heap_size) break;
        if (child < heap_size && heap[child + 1]->next_ns < heap[child]->next_ns) child++;
        if (heap[child]->next_ns >= c->next_ns) break;
        place(i, heap[child]);
        i = child;
    }
    place(i, c);
}

static void schedule(struct connection *c, int64_t at_ns) {
    c->next_ns = at_ns;
    if (!c->heap) {
        if (heap_size + 2 > heap_room) heap = grow(heap, (heap_room = 2 * heap_room + 64) * sizeof *heap);
        place(++heap_size, c);
    }
    sift(c->heap);
}

static void unschedule(struct connection *c) {
    size_t i = c->heap;
    if (!i) return;
    c->heap = 0;
    struct connection *last = heap[heap_size--];
    if (last != c) { place(i, last); sift(i); }
}

/* ---- slots */

static void begin(struct connection *c, int64_t at_ns) {
    c->base_ns = at_ns;
    c->holds_slot = 1;
    busy++;
    schedule(c, c->base_ns + ttft_ns);
}

static void queue(struct connection *c) {
    struct connection **last = &waiting;
    while (*last) last = &(*last)->behind;
    *last = c;
    c->behind = NULL;
}

/* The request of `c` is over, or will never begin: whoever waits longest takes its slot. */
static void release(struct connection *c) {
    for (struct connection **at = &waiting; *at; at = &(*at)->behind)
        if (*at == c) { *at = c->behind; break; }
    busy -= c->holds_slot;
    c->holds_slot = 0;
    while (slots && busy < slots && waiting) {
        struct connection *next = waiting;
        waiting = next->behind;
        begin(next, now_ns());
    }
}

/* ---- sending */

static void watch(struct connection *c, int operation) {
    struct epoll_event event = {.events = EPOLLIN | (c->out_size ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(poller, operation, c->fd, &event);
}

static void end(struct connection *c, int hard) {
    if (hard) {
        struct linger linger = {.l_onoff = 1, .l_linger = 0};
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    }
    unschedule(c);
    release(c);
    close(c->fd);
    free(c->in);
    free(c->out);
    c->fd = -1; /* freed by the caller's round, so that no event at hand points to nothing */
}

static void push(struct connection *c, const char *data, size_t size) {
    ssize_t taken = c->out_size ? 0 : write(c->fd, data, size);
    if (taken < 0) taken = 0;
    if ((size_t)taken == size) return;
    if (c->out_size + size > c->out_room) c->out = grow(c->out, c->out_room = 2 * (c->out_size + size));
    memcpy(c->out + c->out_size, data + taken, size - taken);
    c->out_size += size - taken;
    watch(c, EPOLL_CTL_MOD);
}

/* One HTTP chunk (or plain bytes) holding `body`, with dialects applied. */
static size_t frame(struct connection *c, char *to, const char *body, size_t size) {
    static char translated[65536];
    if (c->fault == CRLF) {
        size_t used = 0;
        for (size_t i = 0; i < size; i++) {
            if (body[i] == '\n') translated[used++] = '\r';
            translated[used++] = body[i];
        }
        body = translated;
        size = used;
    }
    if (c->fault == CR) {
        for (size_t i = 0; i < size; i++) translated[i] = body[i] == '\n' ? '\r' : body[i];
        body = translated;
    }
    if (c->fault == CLOSE_DELIMITED) { memcpy(to, body, size); return size; }
    int head = sprintf(to, "%zx\r\n", size);
    memcpy(to + head, body, size);
    memcpy(to + head + size, "\r\n", 2);
    return head + size + 2;
}

static void send_body(struct connection *c, const char *body, size_t size) {
    static char framed[262144];
    size_t total = frame(c, framed, body, size);
    if (c->fault == SPLIT && total > 2) {
        push(c, framed, total / 2);
        push(c, framed + total / 2, total - total / 2);
    } else {
        push(c, framed, total);
    }
}

static void send_head(struct connection *c) {
    char head[512];
    if (c->fault == EARLY_HINTS) push(c, "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 40);
    if (c->fault == HUGE_HEAD) {
        static char junk[200000];
        memset(junk, 'a', sizeof junk);
        push(c, "HTTP/1.1 200 OK\r\nX-Junk: ", 25);
        push(c, junk, sizeof junk);
    }
    int size = sprintf(head, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n%s%s\r\n",
                       c->fault == CLOSE_DELIMITED ? "" : "Transfer-Encoding: chunked\r\n",
                       c->fault == CLOSE_DELIMITED || c->fault == SAY_CLOSE ? "Connection: close\r\n" : "");
    push(c, head, size);
    if (c->chat) {
        const char *role = "data: {\"id\":\"truth\",\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,"
                           "\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n";
        send_body(c, role, strlen(role));
    }
}

static void answer(struct connection *c, const char *status, const char *type, const void *body, size_t size) {
    char head[256];
    int used = sprintf(head, "HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n\r\n", status, type, size);
    push(c, head, used);
    push(c, body, size);
}

static int usage_object(struct connection *c, char *to, int completion) {
    return sprintf(to, "{\"prompt_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%d,\"prompt_tokens_details\":{\"cached_tokens\":0}}",
                   c->prompt_tokens, completion, c->prompt_tokens + completion);
}

/* A token-bearing event of `tokens` tokens appended to `to`. */
static int token_event(struct connection *c, char *to, int tokens) {
    char text[64] = "", usage[256] = "null";
    for (int i = 0; i < tokens; i++) strcat(text, " word");
    if (c->fault == RUNNING_USAGE) usage_object(c, usage, c->sent + tokens);
    const char *before = c->chat ? "\"delta\":{\"content\":\"" : "\"text\":\"", *after = c->chat ? "\"}" : "\"";
    const char *object = c->chat ? "chat.completion.chunk" : "text_completion";
    return sprintf(to, "data: {\"id\":\"truth\",\"object\":\"%s\",\"created\":1700000000,\"model\":\"truth\",\"choices\":[{\"index\":0,"
                       "%s%s%s,\"logprobs\":null,\"finish_reason\":null}],\"usage\":%s}\n\n", object, before, text, after, usage);
}

static void finish(struct connection *c) {
    char body[2048], usage[256];
    int size = 0;
    if (c->fault != EARLY_DONE)
        size += sprintf(body + size, "data: {\"id\":\"truth\",\"choices\":[{\"index\":0,%s,\"finish_reason\":\"length\"}]}\n\n",
                        c->chat ? "\"delta\":{}" : "\"text\":\"\"");
    if (c->usage && c->fault != NO_USAGE && c->fault != EARLY_DONE) {
        usage_object(c, usage, c->fault == USAGE_LIES ? c->sent / 2 : c->sent);
        size += sprintf(body + size, "data: {\"id\":\"truth\",\"choices\":[],\"usage\":%s}\n\n", usage);
    }
    if (c->fault != NO_DONE) size += sprintf(body + size, "data: [DONE]\n\n");
    if (size) send_body(c, body, size);
    if (c->fault != CLOSE_DELIMITED) push(c, "0\r\n\r\n", 5);
    c->active = 0;
    release(c);
    if (c->fault == CLOSE_DELIMITED || c->fault == SAY_CLOSE || c->fault == SILENT_CLOSE) end(c, 0);
}

/* One event of 17 MB. */
static void flood(struct connection *c) {
    static char piece[50000];
    memset(piece, 'a', sizeof piece);
    send_body(c, "data: {\"choices\":[{\"index\":0,\"text\":\"", 37);
    for (int i = 0; i < 340; i++) send_body(c, piece, sizeof piece);
    send_body(c, "\"}]}\n\n", 6);
}

/* What goes wrong half-way; 1 when nothing more shall be done with the connection now. */
static int half_way(struct connection *c) {
    const char *text = NULL;
    c->half_done = 1;
    switch (c->fault) {
    case ERROR_EVENT: text = "data: {\"error\":{\"message\":\"engine lost its mind\",\"type\":\"server_error\",\"code\":500}}\n\n"; break;
    case BAD_JSON: text = "data: {\"choices\":[{\"text\":\"oops\n\n"; break;
    case BAD_UTF8: text = "data: {\"choices\":[{\"index\":0,\"text\":\"\xff\xfe\"}]}\n\n"; break;
    case TRUNCATE: end(c, 0); return 1;
    case RESET: end(c, 1); return 1;
    case STALL: unschedule(c); return 1;
    case BAD_CHUNK: push(c, "zz\r\n", 4); unschedule(c); return 1;
    case EARLY_DONE: unschedule(c); finish(c); return 1;
    case HUGE_EVENT: flood(c); return 0;
    case DIE: exit(3);
    default: return 0;
    }
    send_body(c, text, strlen(text));
    return 0;
}

/* The next token of a request is due. */
static void due(struct connection *c) {
    char body[4096];
    int size = 0, tokens = c->fault == MULTI ? 2 : 1, repeat = c->fault == COALESCE ? 2 : 1;
    if (c->fault == TRICKLE_HEAD) {
        if (!c->half_done++) push(c, "HTTP/1.1 200 OK\r\nX-Slow: ", 25);
        else push(c, "a", 1);
        schedule(c, c->next_ns + itl_ns);
        return;
    }
    if (c->events == 0 && !c->chat) send_head(c);
    if (c->sent * 2 >= c->tokens && !c->half_done && half_way(c)) return;
    if (c->fault == TRICKLE && c->half_done) {
        send_body(c, ": ping\n\n", 8);
        schedule(c, c->next_ns + itl_ns);
        return;
    }
    if (c->fault == COMMENTS) size += sprintf(body, ": keep-alive\n\n");
    int64_t at = now_ns();
    for (int i = 0; i < repeat && c->sent < c->tokens; i++) {
        if (tokens > c->tokens - c->sent) tokens = c->tokens - c->sent;
        size += token_event(c, body + size, tokens);
        c->sent += tokens;
        log_send(c->request, ++c->events, at);
    }
    send_body(c, body, size);
    if (c->sent >= c->tokens) { unschedule(c); finish(c); return; }
    schedule(c, c->base_ns + ttft_ns + (int64_t)(c->events / repeat) * itl_ns);
}

/* ---- receiving */

static const char *find_header(const char *head, const char *name) {
    const char *found = strcasestr(head, name);
    return found ? found + strlen(name) : NULL;
}

static int words(const char *text) { /* of a JSON string, up to its closing quote */
    int count = 0, inside = 0;
    for (; *text && *text != '"'; text++) {
        if (*text == ' ') inside = 0;
        else if (!inside) inside = ++count > 0;
    }
    return count;
}

static int number_after(const char *body, const char *key, int otherwise) {
    const char *found = strstr(body, key);
    return found ? atoi(found + strlen(key)) : otherwise;
}

static enum fault chosen_fault(const char *body, uint32_t request) {
    const char *model = strstr(body, "\"model\":\"truth:");
    if (!model) return NONE;
    model += strlen("\"model\":\"truth:");
    size_t length = strcspn(model, "\":");
    int every = model[length] == ':' ? atoi(model + length + 1) : 1;
    if (every > 1 && request % every) return NONE;
    for (int i = 1; i < FAULTS; i++)
        if (strlen(fault_names[i]) == length && !strncmp(fault_names[i], model, length)) return i;
    return NONE;
}

static void generate(struct connection *c, const char *head, const char *body) {
    const char *id = find_header(head, "\nX-Request-Id:"), *dash;
    c->request = by_arrival ? by_arrival++ : 0;
    if (id && !by_arrival) {
        size_t length = strcspn(id, "\r\n");
        for (dash = id + length; dash > id && dash[-1] >= '0' && dash[-1] <= '9'; dash--) {}
        c->request = strtoul(dash, NULL, 10);
    }
    c->base_ns = c->arrived_ns;
    log_send(c->request, 0, c->base_ns);
    c->fault = chosen_fault(body, c->request);
    c->chat = strstr(head, "/chat/completions") != NULL;
    c->usage = strstr(body, "\"include_usage\":true") != NULL;
    c->tokens = number_after(body, "\"max_tokens\":", default_tokens);
    const char *prompt = strstr(body, c->chat ? "\"content\":\"" : "\"prompt\":\"");
    c->prompt_tokens = prompt ? words(prompt + (c->chat ? 11 : 10)) : 0;
    c->sent = c->events = c->half_done = 0;
    const char *error = "{\"error\":{\"message\":\"no luck today\",\"type\":\"server_error\"}}";
    switch (c->fault) {
    case HTTP_500: answer(c, "500 Internal Server Error", "application/json", error, strlen(error)); return;
    case NOT_STREAM: answer(c, "200 OK", "application/json", "{\"object\":\"text_completion\"}", 28); return;
    case DROP: end(c, 0); return;
    case STALL_FIRST: c->active = 1; return;
    default: break;
    }
    c->active = 1;
    if (c->chat && c->fault != TRICKLE_HEAD) send_head(c);
    if (slots && busy >= slots) queue(c);
    else begin(c, c->arrived_ns);
}

static void list_models(struct connection *c) {
    char body[4096];
    int size = sprintf(body, "{\"object\":\"list\",\"data\":[{\"id\":\"truth\"}");
    for (int i = 1; i < FAULTS; i++) size += sprintf(body + size, ",{\"id\":\"truth:%s\"}", fault_names[i]);
    size += sprintf(body + size, "]}");
    answer(c, "200 OK", "application/json", body, size);
}

static void tokenize(struct connection *c, const char *body) {
    const char *content = strstr(body, "\"content\":");
    int count = 0, size;
    if (content && (content = strchr(content + 10, '"'))) count = words(content + 1);
    char *reply = malloc(32 + 2 * (size_t)count);
    size = sprintf(reply, "{\"tokens\":[");
    for (int i = 0; i < count; i++) size += sprintf(reply + size, i ? ",1" : "1");
    size += sprintf(reply + size, "]}");
    answer(c, "200 OK", "application/json", reply, size);
    free(reply);
}

static int authorised(const char *head) {
    const char *given = find_header(head, "\nAuthorization: Bearer ");
    if (!api_key) return 1;
    return given && !strncmp(given, api_key, strlen(api_key)) && strchr("\r\n", given[strlen(api_key)]);
}

static void dispatch(struct connection *c, const char *head, const char *body) {
    if (!authorised(head)) answer(c, "401 Unauthorized", "application/json", "{\"error\":\"key\"}", 15);
    else if (!strncmp(head, "GET /v1/models", 14)) list_models(c);
    else if (!strncmp(head, "GET /health", 11)) answer(c, "200 OK", "application/json", "{}", 2);
    else if (!strncmp(head, "GET /truth/log", 14)) {
        answer(c, "200 OK", "application/octet-stream", records, record_count * sizeof *records);
        record_count = 0;
    } else if (!strncmp(head, "GET /truth/pace", 15)) {
        answer(c, "200 OK", "application/octet-stream", paces, pace_count * sizeof *paces);
        pace_count = 0;
    } else if (!strncmp(head, "POST /tokenize", 14)) tokenize(c, body);
    else if (!strncmp(head, "POST /v1/", 9)) generate(c, head, body);
    else answer(c, "404 Not Found", "application/json", "{}", 2);
}

/* recv(2), and when what it gives arrived: the kernel's stamp on CLOCK_MONOTONIC, now where there is none. */
static ssize_t stamped_read(int fd, void *to, size_t room, int64_t *arrived_ns) {
    char control[64];
    struct iovec part = {.iov_base = to, .iov_len = room};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t size = recvmsg(fd, &message, 0);
    *arrived_ns = now_ns();
    if (size <= 0) return size;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SO_TIMESTAMPNS) continue;
        struct timespec t;
        memcpy(&t, CMSG_DATA(c), sizeof t);
        int64_t late = clock_ns(CLOCK_REALTIME) - ((int64_t)t.tv_sec * 1000000000 + t.tv_nsec);
        if (late > 0 && late < 10000000000) *arrived_ns = now_ns() - late;
    }
    return size;
}

static void receive(struct connection *c) {
    if (c->in_room - c->in_size < 16384) c->in = grow(c->in, c->in_room = 2 * c->in_room + 32768);
    ssize_t size = stamped_read(c->fd, c->in + c->in_size, c->in_room - c->in_size - 1, &c->arrived_ns);
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (size <= 0) { end(c, 0); return; }
    c->in_size += size;
    c->in[c->in_size] = 0;
    char *head_end = strstr(c->in, "\r\n\r\n");
    if (!head_end || c->active) return;
    head_end[2] = 0;
    const char *length = find_header(c->in, "\nContent-Length:");
    size_t body_size = length ? strtoul(length, NULL, 10) : 0, total = head_end + 4 - c->in + body_size;
    if (c->in_size < total) { head_end[2] = '\r'; return; }
    c->in_size = 0; /* no pipelining here */
    dispatch(c, c->in, head_end + 4);
}

static void flush(struct connection *c) {
    ssize_t taken = write(c->fd, c->out, c->out_size);
    if (taken > 0) {
        memmove(c->out, c->out + taken, c->out_size - taken);
        c->out_size -= taken;
    }
    if (!c->out_size) watch(c, EPOLL_CTL_MOD);
}

static void accept_all(int listener) {
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof one);
        struct connection *c = calloc(1, sizeof *c);
        if (!c) exit(1);
        c->fd = fd;
        watch(c, EPOLL_CTL_ADD);
    }
}

static int listen_on(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096)) { perror("listen"); exit(1); }
    return fd;
}

static void announce(int listener, int ready_fd) {
    struct sockaddr_in address;
    socklen_t size = sizeof address;
    getsockname(listener, (struct sockaddr *)&address, &size);
    dprintf(ready_fd, "%d\n", ntohs(address.sin_port));
    close(ready_fd);
}

int main(int argc, char **argv) {
    int port = 0, ready_fd = 1;
    for (int i = 1; i + 1 < argc; i += 2) {
        long long value = atoll(argv[i + 1]);
        if (!strcmp(argv[i], "--port")) port = value;
        else if (!strcmp(argv[i], "--ready-fd")) ready_fd = value;
        else if (!strcmp(argv[i], "--ttft-us")) ttft_ns = value * 1000;
        else if (!strcmp(argv[i], "--itl-us")) itl_ns = value * 1000;
        else if (!strcmp(argv[i], "--tokens")) default_tokens = value;
        else if (!strcmp(argv[i], "--slots")) slots = value;
        else if (!strcmp(argv[i], "--by-arrival")) by_arrival = value;
        else if (!strcmp(argv[i], "--cpu")) {
            cpu_set_t set;
            CPU_ZERO(&set);
            CPU_SET(value, &set);
            sched_setaffinity(0, sizeof set, &set);
        } else { fprintf(stderr, "unknown option %s\n", argv[i]); return 2; }
    }
    api_key = getenv("TRUTH_API_KEY");
    signal(SIGPIPE, SIG_IGN);
    poller = epoll_create1(EPOLL_CLOEXEC);
    int listener = listen_on(port), timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &listener};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    event.data.ptr = &timer;
    epoll_ctl(poller, EPOLL_CTL_ADD, timer, &event);
    announce(listener, ready_fd);
    static struct epoll_event events[1024];
    for (;;) {
        int64_t next = heap_size ? heap[1]->next_ns : 0;
        struct itimerspec at = {.it_value = {.tv_sec = next / 1000000000, .tv_nsec = next % 1000000000}};
        timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
        int count = epoll_wait(poller, events, 1024, -1);
        for (int i = 0; i < count; i++) {
            uint64_t expirations;
            if (events[i].data.ptr == &listener) { accept_all(listener); continue; }
            if (events[i].data.ptr == &timer) { if (read(timer, &expirations, 8) < 0) {} continue; }
            struct connection *c = events[i].data.ptr;
            if (c->out_size && events[i].events & EPOLLOUT) flush(c);
            if (c->fd >= 0 && events[i].events & ~EPOLLOUT) receive(c);
            if (c->fd < 0) free(c);
        }
        sample_pace();
        while (heap_size && heap[1]->next_ns <= now_ns()) {
            sample_pace(); /* under load this loop may go on for long */
            struct connection *c = heap[1];
            due(c);
            if (c->fd < 0) free(c);
        }
    }
}
