package engine

import (
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

// mailbox holds the commands and gets that wait for a cell's worker. Host.mu guards
// it.
type mailbox struct {
	jobs     []*job
	jobBytes int
	reads    []*read

	inProgress, inProgressBytes int // commands that the worker has taken
}

func (m *mailbox) push(j *job) {
	m.jobs = append(m.jobs, j)
	m.jobBytes += j.size()
}

// take removes all reads and at most limit jobs. last is the slice that the
// previous call returned; the mailbox fills it next.
func (m *mailbox) take(last []*job, limit int) (jobs []*job, reads []*read) {
	clear(last)
	if len(m.jobs) <= limit {
		jobs, m.jobs = m.jobs, last[:0]
	} else {
		jobs = append(last[:0], m.jobs[:limit]...)
		n := copy(m.jobs, m.jobs[limit:])
		clear(m.jobs[n:])
		m.jobs = m.jobs[:n]
	}
	m.inProgress = len(jobs)
	for _, j := range jobs {
		m.inProgressBytes += j.size()
	}
	m.jobBytes -= m.inProgressBytes
	reads, m.reads = m.reads, nil
	return jobs, reads
}

// Submit queues a command. Commands on one stream are executed in the order of
// the calls. Submit never blocks. It calls reply exactly once, perhaps before it
// returns; reply must not block.
func (h *Host) Submit(c command.Command, reply func(command.Outcome)) {
	h.counters.commands.Add(1)
	j := &job{
		Command: c, reply: reply, keepOutcome: c.ClientKey || c.Attempt > 1,
		deciding: activity{doing: "deciding command", name: c.Name},
	}
	def, ok := h.catalog.Type(c.Stream.Type)
	reserved := c.CheckReserved()
	switch {
	case reserved != nil:
		j.refuse(reserved)
	case h.isOfOtherLog(j):
		j.refuse(command.OtherLog(c.Log, h.store.LogID()))
	case !ok:
		j.refuse(command.UnknownType(c.Stream.Type).OnOtherNodes())
	case c.Key == "":
		j.refuse(command.BadRequest("key", "the command has no key"))
	case len(c.Data) > MaxCommandBytes:
		j.refuse(command.TooLarge("data has %d bytes, at most %d are allowed", len(c.Data), MaxCommandBytes))
	default:
		if f := h.enqueue(def, j); f != nil {
			j.refuse(f)
		}
	}
}

// enqueue puts a job into its aggregate's mailbox, or returns the refusal.
func (h *Host) enqueue(def *aggregate.Definition, j *job) *command.Failure {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f := h.pending.refusal(j.size()); f != nil {
		return h.countBusy(f)
	}
	c, f := h.cell(def, j.Stream)
	if f != nil {
		return f
	}
	if waiting := len(c.mailbox.jobs); waiting > 0 {
		if waiting >= h.config.MailboxCommands || c.mailbox.jobBytes+j.size() > h.config.MailboxBytes {
			return h.countBusy(command.Busy("the queue of %s is full", j.Stream))
		}
		if !c.canFinishInTime(j) {
			return h.countBusy(command.Busy("the queue of %s is longer than this command's deadline allows", j.Stream))
		}
	}
	c.mailbox.push(j)
	h.pending.add(1, j.size())
	h.ensureWorker(c)
	return nil
}

func (h *Host) countBusy(f *command.Failure) *command.Failure {
	if f.Code == command.CodeBusy {
		h.counters.busy.Add(1)
	}
	return f
}

// minQueueTime is the estimated wait up to which commands are accepted whatever
// their deadlines.
const minQueueTime = 100 * time.Millisecond

// canFinishInTime reports whether a command that joins the mailbox is expected
// to have its reply before its deadline. It adds a third to the estimate, since
// work that ends just too late is worth nothing. Callers accept a command into an
// empty mailbox without this check, so that it corrects a wrong estimate. The
// caller holds Host.mu.
func (c *cell) canFinishInTime(j *job) bool {
	if j.Deadline.IsZero() {
		return true
	}
	wait := c.pace.wait(len(c.mailbox.jobs) + 1)
	return wait <= minQueueTime || time.Until(j.Deadline) > wait+wait/3
}

// cell returns the stream's cell, which it creates if necessary. The caller holds
// mu.
func (h *Host) cell(def *aggregate.Definition, s eventstore.StreamID) (*cell, *command.Failure) {
	if c, ok := h.cache.cells[s]; ok {
		return c, nil
	}
	if err := s.Validate(); err != nil {
		return nil, command.BadRequest("", "%v", err)
	}
	c := &cell{stream: s, def: def}
	h.cache.cells[s] = c
	return c, nil
}

// ensureWorker starts a worker for the cell if it has none. The caller holds mu.
func (h *Host) ensureWorker(c *cell) {
	if c.working {
		return
	}
	c.working = true
	h.cache.unpark(c)
	h.pending.workerStarted()
	h.workers.Add(1)
	go worker{h, c}.work()
}

// nextWork takes the next work from the cell's mailbox: all reads and at most
// Drain commands. last is the slice of the previous drain. If the mailbox is
// empty, nextWork ends the cell's work and returns false.
func (h *Host) nextWork(c *cell, last []*job) (jobs []*job, reads []*read, more bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := &c.mailbox
	h.pending.add(-m.inProgress, -m.inProgressBytes)
	m.inProgress, m.inProgressBytes = 0, 0
	if len(m.jobs) == 0 && len(m.reads) == 0 {
		h.endWork(c)
		return nil, nil, false
	}
	jobs, reads = m.take(last, h.config.Drain)
	return jobs, reads, true
}

// endWork makes a cell idle, or removes it. The caller holds mu.
func (h *Host) endWork(c *cell) {
	c.working = false
	c.mailbox.jobs = nil // an idle cell does not keep the slice that a burst needed
	// An aggregate without events is not worth caching: one read shows that it
	// is empty, and a client can name any id.
	if !c.cached.counted || c.state.version == 0 || c.invalid || c.disowned {
		h.cache.remove(c)
	} else {
		h.cache.park(c)
	}
	h.pending.workerEnded()
}
