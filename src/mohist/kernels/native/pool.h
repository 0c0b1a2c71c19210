// A persistent thread pool for many short parallel loops, polite to its neighbours.
//
// Work is handed out task by task, so a slow thread holds back at most one task. Threads spin briefly between loops
// and then sleep. While they wait for a core longer than they can bear, because another process has it, the caller
// works alone: results do not depend on who computes them (that is the law), so nothing else changes.
#pragma once
#include <stdint.h>

#include <atomic>
#include <cstdlib>
#include <thread>
#include <vector>

#include "mohist.h"

namespace mohist {

// Aligned memory that grows and is then kept; contents are not preserved.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { std::free(data_); }
  template <class T> T* get(int64_t count) {
    const int64_t bytes = (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
    if (bytes > bytes_) {
      std::free(data_);
      data_ = std::aligned_alloc(64, bytes);
      if (!data_) std::abort();
      bytes_ = bytes;
    }
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

// How long the thread that made it has waited for a core, as Linux counts it; elsewhere 0.
class RunQueue {
 public:
  RunQueue();
  RunQueue(const RunQueue&) = delete;
  RunQueue& operator=(const RunQueue&) = delete;
  ~RunQueue();
  int64_t waited_ns() const;

 private:
  int file_ = -1;
};

}  // namespace mohist

struct mohist_pool {
 public:
  explicit mohist_pool(int threads);
  ~mohist_pool();
  mohist_pool(const mohist_pool&) = delete;
  mohist_pool& operator=(const mohist_pool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(task, thread) for every task in 0..tasks-1, in any order, and returns when all are done.
  template <class Body> void parallel(int64_t tasks, const Body& body) {
    run(tasks, [](const void* b, int64_t task, int thread) { (*static_cast<const Body*>(b))(task, thread); }, &body);
  }

  // What the next loops will read, as far as it is known: threads that have nothing to do take `bytes` of it each into
  // their caches, the caller from `front` on, the workers up to `back`, where each takes its first tasks.
  void expect(const void* front, const void* back, int64_t bytes);

  mohist::Scratch& shared(int slot) { return shared_[slot]; }
  mohist::Scratch& local(int thread) { return local_[thread]; }

 private:
  using Call = void (*)(const void* body, int64_t task, int thread);
  void run(int64_t tasks, Call call, const void* body);
  bool take_one(int thread);
  struct Fetched {
    uint32_t expectation = 0;
    int64_t bytes = 0;
  };
  bool fetch(int thread, Fetched& so_far) const;  // a little of what is expected; false when all is there
  void work(int thread);
  void wait_for_the_others(int64_t tasks);
  bool alone();  // whether to leave the workers asleep for now

  // The tasks that are left: high half: the first, low half: behind the last. The caller takes them from the front and
  // workers from the back, so that it is known what each reads first. Taking one is one compare-and-swap; who read the
  // word before a loop that has just the same tasks left takes one of that loop, which is as good.
  alignas(64) std::atomic<uint64_t> tasks_{0};
  alignas(64) std::atomic<int64_t> done_{0};
  alignas(64) std::atomic<uint32_t> loop_{0};  // what sleeping workers wait on
  std::atomic<int> asleep_{0};
  std::atomic<uint32_t> main_waits_{0};
  std::atomic<bool> stop_{false};
  Call call_ = nullptr;
  const void* body_ = nullptr;
  // Written between loops. Who reads one old and one new fetches what nobody needs, and nothing else goes wrong.
  alignas(64) std::atomic<uint32_t> expectation_{0};
  std::atomic<const char*> front_{nullptr}, back_{nullptr};
  std::atomic<int64_t> expected_bytes_{0};
  Fetched fetched_;  // by the caller
  int64_t alone_until_ns_ = 0, alone_for_ns_ = 0;
  int64_t asked_ns_ = 0, waited_ns_ = 0, debt_ns_ = 0;
  const void* asked_by_ = nullptr;  // the calling thread, whose waiting is counted
  std::vector<std::atomic<const mohist::RunQueue*>> queues_;  // of the workers; before them, who write it
  std::vector<std::thread> workers_;
  std::vector<mohist::Scratch> local_;
  mohist::Scratch shared_[8];
};
