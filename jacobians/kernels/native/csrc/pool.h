/* The threads of a call: torch's own team, or a small pool of persistent workers that spin briefly for the next call, then sleep.
 *
 * Torch's OpenMP threads spin for milliseconds after each operation of theirs, and held the processors of a second team: behind a copy
 * of x, products on two cores took 1.8 times their time. Its team does not survive a fork (the child hung), so the child has the pool;
 * and its barriers were seen stuck for 72 ms, the time slice of a preempted thread, so the barriers within a call are ours, where who
 * waits long yields. The pool is checked with ThreadSanitizer: `make sanitize`.
 *
 * One call uses the pool at a time; a second one, from another Python thread, runs on its own thread alone and is right all
 * the same. After a fork the child starts with an empty pool.
 */
#ifndef JACOBIANS_POOL_H
#define JACOBIANS_POOL_H

#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>

#if defined(__x86_64__) || defined(__i386__)
#define RELAX() __builtin_ia32_pause()
#else
#define RELAX() ((void)0)
#endif

enum { MOST_THREADS = 256, SPINS_BEFORE_SLEEP = 4000, SPINS_BEFORE_YIELD = 20000, THREAD_BITS = 9, JOINED = 1 << THREAD_BITS };

/* Compiled in two parts at the same time, one for each type of numbers: PART is 32 or 64. The pool is in the first and serves both. */
#if !defined(PART)
#define SHARED static
#else
#define SHARED __attribute__((visibility("hidden")))
#endif
#if defined(PART) && PART == 64
#define SECOND_PART
#endif

typedef void (*Task)(void *argument, int thread, int threads);

/* All threads of the current call meet here. */
typedef struct {
    atomic_int arrived;
    atomic_uint phase;
} Meeting;
#if defined(SECOND_PART)
extern SHARED Meeting meeting;
#else
SHARED Meeting meeting;
#endif

static void barrier(int threads) {
    if (threads == 1) return;
    unsigned phase = atomic_load(&meeting.phase);
    if (atomic_fetch_add(&meeting.arrived, 1) == threads - 1) {
        atomic_store(&meeting.arrived, 0);
        atomic_store(&meeting.phase, phase + 1);
        return;
    }
    for (long spins = 0; atomic_load_explicit(&meeting.phase, memory_order_acquire) == phase; spins++) {
        RELAX();
        if (spins > SPINS_BEFORE_YIELD) sched_yield();
    }
}

SHARED void run_on(int threads, Task task, void *argument);
SHARED void run_shared_out(int threads, Task task, void *argument);

#if !defined(SECOND_PART)

static struct {
    pthread_mutex_t in_use, asleep;
    pthread_cond_t wake;
    int workers; /* started so far */
    uint64_t begins_after[MOST_THREADS]; /* the call that was the last one when a worker was started */
    _Atomic uint64_t call; /* number of the call, in the low bits its threads and whether they join as they come: all change at once */
    atomic_int sleepers, pending;
    _Atomic uint64_t open; /* the call that workers may still join, else 0 */
    atomic_int inside;     /* workers that joined it, or are about to look */
    pthread_t thread[MOST_THREADS];
    int home, placed; /* the caller's processor when workers were last kept off it, and how many */
    Task task;
    void *argument;
} pool = {.in_use = PTHREAD_MUTEX_INITIALIZER, .asleep = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

/* Numbers below the smallest normal one count as zero while a task runs. In the chain of a saturated network they are common, and each
 * operation on one costs some processors a hundred cycles: forward mode of a 1000 wide network took several times its time. */
#if defined(__SSE__)
#include <xmmintrin.h>
typedef unsigned Rounding;
static Rounding flush_subnormals(void) {
    unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040); /* flush to zero, denormals are zero */
    return before;
}
static void restore_rounding(Rounding before) { _mm_setcsr(before); }
#elif defined(__aarch64__)
typedef uint64_t Rounding;
static Rounding flush_subnormals(void) {
    uint64_t before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"(before | (1u << 24)));
    return before;
}
static void restore_rounding(Rounding before) { __asm__ volatile("msr fpcr, %0" : : "r"(before)); }
#else
typedef int Rounding;
static Rounding flush_subnormals(void) { return 0; }
static void restore_rounding(Rounding before) { (void)before; }
#endif

/* Run this thread's share. */
static void run_here(Task task, void *argument, int thread, int threads) {
    Rounding before = flush_subnormals();
    task(argument, thread, threads);
    restore_rounding(before);
}

static void *worker(void *number) {
    int index = (int)(intptr_t)number;
    uint64_t seen = pool.begins_after[index];
    for (;;) {
        uint64_t call;
        int spins = 0;
        while ((call = atomic_load_explicit(&pool.call, memory_order_acquire)) == seen) {
            RELAX();
            if (++spins < SPINS_BEFORE_SLEEP) continue;
            pthread_mutex_lock(&pool.asleep);
            atomic_fetch_add(&pool.sleepers, 1);
            while (atomic_load(&pool.call) == seen) pthread_cond_wait(&pool.wake, &pool.asleep);
            atomic_fetch_sub(&pool.sleepers, 1);
            pthread_mutex_unlock(&pool.asleep);
        }
        seen = call;
        int threads = (int)(call & (JOINED - 1));
        if (index < threads && (call & JOINED)) {
            /* A worker that comes late finds the call closed, or another one open, and looks again for what it is asked. */
            atomic_fetch_add(&pool.inside, 1);
            if (atomic_load(&pool.open) == call) run_here(pool.task, pool.argument, index, threads);
            atomic_fetch_sub(&pool.inside, 1);
        } else if (index < threads) {
            run_here(pool.task, pool.argument, index, threads);
            atomic_fetch_sub_explicit(&pool.pending, 1, memory_order_release);
        }
    }
    return NULL;
}

/* Torch's team, where its library is loaded: start a region, the number of a thread in it, and how many there are. */
static void (*start_team)(void (*)(void *), void *, unsigned, unsigned);
static int (*number_in_team)(void), (*size_of_team)(void);

void use_team(void *start, void *number, void *size) {
    number_in_team = (int (*)(void))number;
    size_of_team = (int (*)(void))size;
    start_team = (void (*)(void (*)(void *), void *, unsigned, unsigned))start;
}

typedef struct {
    Task task;
    void *argument;
} Shares;

static void take_share(void *shares) {
    const Shares *s = shares;
    run_here(s->task, s->argument, number_in_team(), size_of_team());
}

/* Run a task on torch's threads; returns 0 where that cannot be. */
static int run_on_team(int threads, Task task, void *argument) {
    if (threads <= 1 || !start_team || pthread_mutex_trylock(&pool.in_use) != 0) return 0;
    Shares shares = {task, argument};
    start_team(take_share, &shares, (unsigned)(threads < MOST_THREADS ? threads : MOST_THREADS), 0);
    pthread_mutex_unlock(&pool.in_use);
    return 1;
}

static void forget_workers(void) {
    start_team = NULL;
    pthread_mutex_init(&pool.in_use, NULL);
    pthread_mutex_init(&pool.asleep, NULL);
    pthread_cond_init(&pool.wake, NULL);
    pool.workers = pool.placed = 0;
    atomic_store(&pool.sleepers, 0);
    atomic_store(&pool.open, 0);
    atomic_store(&pool.inside, 0);
    atomic_store(&meeting.arrived, 0);
}

__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(NULL, NULL, forget_workers); }

/* Keep the workers off the caller's processor. The scheduler likes to wake a thread where its waker runs, and there it would wait
 * for the whole share of the caller while another processor idles: products were seen to take twice their time for seconds. */
static void keep_apart(void) {
#if defined(__linux__)
    int here = sched_getcpu();
    if (here < 0 || (here == pool.home && pool.placed == pool.workers)) return;
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    CPU_CLR(here, &allowed);
    if (CPU_COUNT(&allowed) > 0)
        for (int i = 1; i <= pool.workers; i++) pthread_setaffinity_np(pool.thread[i], sizeof allowed, &allowed);
    pool.home = here;
    pool.placed = pool.workers;
#endif
}

/* Publish a call that workers join as they come, or that each of them takes part in, and wake who sleeps. */
static void publish(int threads, int kind) {
    uint64_t call = ((atomic_load(&pool.call) >> (THREAD_BITS + 1)) + 1) << (THREAD_BITS + 1) | (uint64_t)(kind | threads);
    if (kind == JOINED) atomic_store(&pool.open, call);
    atomic_store(&pool.call, call);
    if (atomic_load(&pool.sleepers) > 0) {
        pthread_mutex_lock(&pool.asleep);
        pthread_cond_broadcast(&pool.wake);
        pthread_mutex_unlock(&pool.asleep);
    }
}

/* Take the pool for a call on some threads. Returns how many there are; with 1 the pool is not taken. */
static int take_pool(int threads) {
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    if (threads <= 1 || pthread_mutex_trylock(&pool.in_use) != 0) return 1;
    while (pool.workers < threads - 1) {
        pthread_t thread;
        pool.begins_after[pool.workers + 1] = atomic_load(&pool.call);
        if (pthread_create(&thread, NULL, worker, (void *)(intptr_t)(pool.workers + 1)) != 0) break;
        pthread_detach(thread);
        pool.thread[++pool.workers] = thread;
    }
    if (threads > pool.workers + 1) threads = pool.workers + 1;
    if (threads == 1) pthread_mutex_unlock(&pool.in_use);
    else keep_apart();
    return threads;
}

/* Run a task on several threads, this one among them, each with its own share, and wait for all. */
SHARED void run_on(int threads, Task task, void *argument) {
    if (run_on_team(threads, task, argument)) return;
    threads = take_pool(threads);
    if (threads == 1) {
        run_here(task, argument, 0, 1);
        return;
    }
    pool.task = task;
    pool.argument = argument;
    atomic_store(&pool.pending, threads - 1);
    publish(threads, 0);
    run_here(task, argument, 0, threads);
    for (long spins = 0; atomic_load_explicit(&pool.pending, memory_order_acquire) > 0; spins++) {
        RELAX();
        if (spins > SPINS_BEFORE_YIELD) sched_yield();
    }
    pthread_mutex_unlock(&pool.in_use);
}

/* Run a task whose threads share out its pieces themselves and never wait for each other: who is held up elsewhere, e.g. by threads of
 * another library that spin on its processor, takes fewer pieces, or comes too late for any, and nobody waits for that. */
SHARED void run_shared_out(int threads, Task task, void *argument) {
    if (run_on_team(threads, task, argument)) return;
    threads = take_pool(threads);
    if (threads == 1) {
        run_here(task, argument, 0, 1);
        return;
    }
    pool.task = task;
    pool.argument = argument;
    publish(threads, JOINED);
    run_here(task, argument, 0, threads);
    atomic_store(&pool.open, 0);
    for (long spins = 0; atomic_load(&pool.inside) > 0; spins++) {
        RELAX();
        if (spins > SPINS_BEFORE_YIELD) sched_yield();
    }
    pthread_mutex_unlock(&pool.in_use);
}

#endif
#endif
