#include "pool.h"

#include <time.h>

#include <algorithm>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace {

constexpr int64_t kIdleSpinNs = 1'000'000;      // a worker looks for the next loop this long before it sleeps: the
                                                // gap between two tokens, and no burden once there is nothing to do
constexpr int64_t kWaitSpinNs = 60'000;         // the caller waits for the others' last tasks, then sleeps
constexpr int64_t kStallNs = 1'000'000;         // a loop's end held up this long, beside the time of two tasks: another
                                                // process has our core, or memory was cleared for the first time
constexpr int64_t kForgetNs = 100'000'000;      // only a stall this soon after another is no accident: then we
constexpr int64_t kAloneNs = 4'000'000;         // work alone for at first, twice as long at every further stall,
constexpr int64_t kAloneMaxNs = 250'000'000;    // up to this

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

// Spins until ready() or for about `limit_ns`; true when ready.
template <class Ready> bool spin(int64_t limit_ns, const Ready& ready) {
  int64_t deadline = 0;
  for (;;) {
    for (int i = 0; i < 32; i++) {
      if (ready()) return true;
      relax();
    }
    const int64_t now = now_ns();
    if (!deadline) deadline = now + limit_ns;
    else if (now > deadline) return false;
  }
}

}  // namespace

mohist_pool::mohist_pool(int threads) : local_(std::max(threads, 1)) {
  for (int i = 1; i < threads; i++) workers_.emplace_back([this, i] { work(i); });
}

mohist_pool::~mohist_pool() {
  stop_.store(true);
  loop_.fetch_add(1);
  wake(loop_, threads());
  for (std::thread& worker : workers_) worker.join();
}

bool mohist_pool::take_one(int thread) {
  uint64_t t = tickets_.load(std::memory_order_acquire);
  while (t & 0xffffffffu) {
    if (tickets_.compare_exchange_weak(t, t - 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
      call_(body_, static_cast<int64_t>(t & 0xffffffffu) - 1, thread);  // stable: the loop cannot end without us
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

void mohist_pool::work(int thread) {
  while (!stop_.load(std::memory_order_relaxed)) {
    while (take_one(thread)) {
    }
    if (spin(kIdleSpinNs, [&] {
          return (tickets_.load(std::memory_order_relaxed) & 0xffffffffu) != 0 || stop_.load(std::memory_order_relaxed);
        }))
      continue;
    const uint32_t seen = loop_.load();
    asleep_.fetch_add(1);
    if (!(tickets_.load() & 0xffffffffu) && !stop_.load()) sleep_on(loop_, seen);
    asleep_.fetch_sub(1);
  }
}

void mohist_pool::wait_for_the_others(int64_t tasks, int64_t own, int64_t since_ns) {
  const auto finished = [&] { return done_.load() == tasks; };
  for (int i = 0; i < 64; i++) {
    if (finished()) return;
    relax();
  }
  const int64_t begin = now_ns();
  while (!finished()) {
    if (spin(kWaitSpinNs, finished)) break;
    main_waits_.store(1);  // give the core away: the one we wait for may need it
    if (!finished()) sleep_on(main_waits_, 1);
    main_waits_.store(0);
  }
  const int64_t end = now_ns();
  if (end - begin <= kStallNs + 2 * (begin - since_ns) / std::max<int64_t>(own, 1)) return;
  if (end > last_stall_ns_ + kForgetNs) {
    alone_for_ns_ = 0;
    last_stall_ns_ = end;
    return;
  }
  alone_for_ns_ = std::clamp(2 * alone_for_ns_, kAloneNs, kAloneMaxNs);
  alone_for_ns_ = std::max(alone_for_ns_, 16 * (end - begin));  // stalls cost at most a sixteenth
  alone_until_ns_ = last_stall_ns_ = end + alone_for_ns_;
}

void mohist_pool::run(int64_t tasks, Call call, const void* body) {
  const bool alone = tasks < 2 || workers_.empty() || (alone_until_ns_ && now_ns() < alone_until_ns_);
  if (alone) {
    for (int64_t i = 0; i < tasks; i++) call(body, i, 0);
    return;
  }
  alone_until_ns_ = 0;
  call_ = call;
  body_ = body;
  done_.store(0, std::memory_order_relaxed);
  const uint64_t loop = loop_.load(std::memory_order_relaxed) + 1;
  tickets_.store(loop << 32 | static_cast<uint64_t>(tasks));
  loop_.store(static_cast<uint32_t>(loop));  // after the tickets: who saw no ticket must see this change
  if (asleep_.load()) wake(loop_, threads());
  const int64_t begin = now_ns();
  int64_t own = 0;
  while (take_one(0)) own++;
  wait_for_the_others(tasks, own, begin);
}

mohist_pool* mohist_pool_create(int64_t threads) { return new mohist_pool(static_cast<int>(threads)); }
void mohist_pool_destroy(mohist_pool* pool) { delete pool; }
int64_t mohist_pool_threads(const mohist_pool* pool) { return pool->threads(); }
