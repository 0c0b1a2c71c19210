#include "pool.h"

#include <time.h>

#include <algorithm>
#include <cstdlib>

#if defined(__linux__)
#include <fcntl.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "tile.h"

namespace {

constexpr int64_t kIdleSpinNs = 1'000'000;      // a worker looks for the next loop this long before it sleeps: the
                                                // gap between two tokens, and no burden once there is nothing to do
constexpr int64_t kWaitSpinNs = 60'000;         // the caller waits for the others' last tasks, then sleeps
constexpr int64_t kFetchBytes = 1024;           // asked for between two looks at whether there is something to do
constexpr int64_t kWindowNs = 10'000'000;       // how often we ask the kernel how long our threads waited for a core
constexpr int64_t kStaleNs = 200'000'000;       // a longer window says nothing: most of it was idle
constexpr int64_t kBearable = 3;                // one part in so many of the time may be waited; what exceeds it adds
constexpr int64_t kDebtNs = 10'000'000;         // up, and at this much we
constexpr int64_t kAloneNs = 32'000'000;        // work alone for at first, twice as long every further time that comes
constexpr int64_t kAloneMaxNs = 1'000'000'000;  // up to this
constexpr int64_t kForgetNs = 500'000'000;      // sooner than this after working alone

int64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1'000'000'000LL + t.tv_nsec;
}

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

#if defined(__linux__)
void sleep_on(std::atomic<uint32_t>& word, uint32_t value) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
}
void wake(std::atomic<uint32_t>& word, int count) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0);
}
#else
void sleep_on(std::atomic<uint32_t>& word, uint32_t value) {
  if (word.load() == value) std::this_thread::sleep_for(std::chrono::microseconds(50));
}
void wake(std::atomic<uint32_t>&, int) {}
#endif

// Spins until ready() or for about `limit_ns`; true when ready. Meanwhile it does what meanwhile() does a little of.
template <class Ready, class Meanwhile> bool spin(int64_t limit_ns, const Ready& ready, const Meanwhile& meanwhile) {
  int64_t deadline = 0;
  for (;;) {
    for (int i = 0; i < 32; i++) {
      if (ready()) return true;
      if (!meanwhile()) relax();
    }
    const int64_t now = now_ns();
    if (!deadline) deadline = now + limit_ns;
    else if (now > deadline) return false;
  }
}

bool any(uint64_t tasks) { return tasks >> 32 < (tasks & 0xffffffffu); }

}  // namespace

namespace mohist {

// schedstat of a thread: nanoseconds on a core, nanoseconds in a run queue, number of slices
RunQueue::RunQueue() {
#if defined(__linux__)
  file_ = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
#endif
}

RunQueue::~RunQueue() {
#if defined(__linux__)
  if (file_ >= 0) close(file_);
#endif
}

int64_t RunQueue::waited_ns() const {
#if defined(__linux__)
  char text[96];
  const ssize_t length = file_ < 0 ? 0 : pread(file_, text, sizeof text - 1, 0);
  if (length <= 0) return 0;
  text[length] = 0;
  char* second = nullptr;
  std::strtoll(text, &second, 10);
  return std::strtoll(second, nullptr, 10);
#else
  return 0;
#endif
}

}  // namespace mohist

using mohist::prefetch;
using mohist::RunQueue;

mohist_pool::mohist_pool(int threads) : queues_(std::max(threads, 1) - 1), local_(std::max(threads, 1)) {
  for (int i = 1; i < threads; i++) workers_.emplace_back([this, i] { work(i); });
}

mohist_pool::~mohist_pool() {
  stop_.store(true);
  loop_.fetch_add(1);
  wake(loop_, threads());
  for (std::thread& worker : workers_) worker.join();
}

bool mohist_pool::take_one(int thread) {
  uint64_t t = tasks_.load(std::memory_order_acquire);
  while (any(t)) {
    const uint64_t rest = thread ? t - 1 : t + (uint64_t{1} << 32);
    if (tasks_.compare_exchange_weak(t, rest, std::memory_order_acq_rel, std::memory_order_acquire)) {
      const uint64_t task = thread ? rest & 0xffffffffu : t >> 32;
      call_(body_, static_cast<int64_t>(task), thread);  // stable: the loop cannot end without us
      done_.fetch_add(1);
      if (main_waits_.load()) {
        main_waits_.store(0);
        wake(main_waits_, 1);
      }
      return true;
    }
  }
  return false;
}

void mohist_pool::expect(const void* front, const void* back, int64_t bytes) {
  front_.store(static_cast<const char*>(front), std::memory_order_relaxed);
  back_.store(static_cast<const char*>(back), std::memory_order_relaxed);
  expected_bytes_.store(bytes, std::memory_order_relaxed);
  expectation_.fetch_add(1, std::memory_order_release);
}

bool mohist_pool::fetch(int thread, Fetched& so_far) const {
  const uint32_t expectation = expectation_.load(std::memory_order_acquire);
  if (expectation != so_far.expectation) so_far = {expectation, 0};
  const int64_t bytes = expected_bytes_.load(std::memory_order_relaxed);
  if (so_far.bytes >= bytes) return false;
  const char* begin = thread ? back_.load(std::memory_order_relaxed) - thread * bytes : front_.load(std::memory_order_relaxed);
  for (int64_t i = 0; i < kFetchBytes; i += 64) prefetch(begin + so_far.bytes + i);
  so_far.bytes += kFetchBytes;
  return true;
}

void mohist_pool::work(int thread) {
  const RunQueue queue;
  queues_[thread - 1].store(&queue, std::memory_order_release);
  Fetched fetched;
  while (!stop_.load(std::memory_order_relaxed)) {
    while (take_one(thread)) {
    }
    if (spin(
            kIdleSpinNs,
            [&] { return any(tasks_.load(std::memory_order_relaxed)) || stop_.load(std::memory_order_relaxed); },
            [&] { return fetch(thread, fetched); }))
      continue;
    const uint32_t seen = loop_.load();
    asleep_.fetch_add(1);
    if (!any(tasks_.load()) && !stop_.load()) sleep_on(loop_, seen);
    asleep_.fetch_sub(1);
  }
}

void mohist_pool::wait_for_the_others(int64_t tasks) {
  const auto finished = [&] { return done_.load() == tasks; };
  while (!spin(kWaitSpinNs, finished, [&] { return fetch(0, fetched_); })) {
    main_waits_.store(1);  // give the core away: the one we wait for may need it
    if (!finished()) sleep_on(main_waits_, 1);
    main_waits_.store(0);
  }
}

bool mohist_pool::alone() {
  const int64_t now = now_ns();
  if (now < alone_until_ns_) return true;
  const int64_t elapsed = now - asked_ns_;
  if (elapsed < kWindowNs) return false;
  thread_local const RunQueue own;
  int64_t waited = own.waited_ns();
  for (const std::atomic<const RunQueue*>& queue : queues_)
    if (const RunQueue* worker = queue.load(std::memory_order_acquire)) waited += worker->waited_ns();
  const int64_t lost = waited - waited_ns_;
  const bool comparable = elapsed < kStaleNs && asked_by_ == &own;
  asked_ns_ = now;
  asked_by_ = &own;
  waited_ns_ = waited;
  debt_ns_ = comparable ? std::max<int64_t>(debt_ns_ + lost - elapsed / kBearable, 0) : 0;
  if (debt_ns_ < kDebtNs) return false;
  debt_ns_ = 0;
  alone_for_ns_ = now < alone_until_ns_ + kForgetNs ? std::min(2 * alone_for_ns_, kAloneMaxNs) : kAloneNs;
  alone_until_ns_ = now + alone_for_ns_;
  return true;
}

void mohist_pool::run(int64_t tasks, Call call, const void* body) {
  if (tasks < 2 || workers_.empty() || alone()) {
    for (int64_t i = 0; i < tasks; i++) call(body, i, 0);
    return;
  }
  call_ = call;
  body_ = body;
  done_.store(0, std::memory_order_relaxed);
  tasks_.store(static_cast<uint64_t>(tasks));
  loop_.fetch_add(1);  // after the tasks: who saw none must see this change
  if (asleep_.load()) wake(loop_, threads());
  while (take_one(0)) {
  }
  wait_for_the_others(tasks);
}

mohist_pool* mohist_pool_create(int64_t threads) { return new mohist_pool(static_cast<int>(threads)); }
void mohist_pool_destroy(mohist_pool* pool) { delete pool; }
int64_t mohist_pool_threads(const mohist_pool* pool) { return pool->threads(); }
