package console

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"
)

// A problem is something that an operator should look at.
type problem struct {
	// Severity is "bad" if clients notice it, otherwise "warning".
	Severity string `json:"severity"`
	// Text says what is wrong, Do what to do about it.
	Text string `json:"text"`
	Do   string `json:"do"`
	// Runbook is the title of a section of docs/runbooks.md.
	Runbook string `json:"runbook"`
	// Page is the path of the console's page that shows more, "" if none does.
	Page string `json:"page,omitempty"`

	// slow problems appear for a moment in every healthy cluster, for instance while a
	// member joins. They are shown once they have lasted for settleAfter samples.
	slow bool
}

const (
	bad, warning = "bad", "warning"
	// settleAfter is the number of samples after which a slow problem is shown.
	settleAfter = 5
	// certificateDays is how long before the end of a certificate it is a problem.
	certificateDays = 14 * 24 * time.Hour
	// clockMS is the difference of clocks that is a problem.
	clockMS = 2000
	// lag is how long a projection, or the broker of a relay, may not have shown the
	// newest event.
	lag = 30 * time.Second
	// away is how long an intake may lack a connection to its queue.
	away = 30 * time.Second
)

// problems returns what is wrong in a picture, the worst first.
func problems(p picture, answers []reading, now time.Time) []problem {
	var list []problem
	add := func(severity, runbook string, slow bool, do, format string, args ...any) {
		list = append(list, problem{Severity: severity, Text: fmt.Sprintf(format, args...), Do: do, Runbook: runbook, slow: slow})
	}
	if p.Owners == 0 {
		add(bad, "GanglionNoOwner", true, "Start a domain node, or find out why the running ones are not ready.", "No domain node is ready, so every command is refused.")
	}
	for _, l := range p.Lost {
		add(bad, "GanglionMemberLost", false, "Restart it, or wait: it is forgotten after an hour.", "%s disappeared %s ago without leaving: it crashed, or it was cut off.", l.ID, duration(l.Seconds))
	}
	versions := map[string][]string{}
	for i, m := range p.Members {
		versions[m.Version] = append(versions[m.Version], m.ID)
		a := answers[i]
		switch {
		case m.State == "not-ready":
			add(bad, "GanglionNotReady", false, "Read its log and its /readyz.", "%s runs and does not serve: %s.", m.ID, m.Problem)
		case m.Problem != "":
			add(warning, "GanglionNotReady", false, "Read its log.", "%s reports a problem: %s.", m.ID, m.Problem)
		}
		if m.Silent != "" {
			add(warning, "GanglionNodeDown", true, "Look whether its process runs, and whether this node reaches it.", "%s does not answer %s: %s.", m.ID, p.Node, m.Silent)
			continue
		}
		if m.State == "ready" && m.Ring != p.Ring {
			add(warning, "GanglionRingsDiffer", true, "Compare the members that each of them sees.", "%s and %s disagree about the owners of aggregates.", m.ID, p.Node)
		}
		if m.ClockMS >= clockMS || m.ClockMS <= -clockMS {
			add(warning, "GanglionClockWrong", false, "Synchronize its clock.", "The clock of %s is %s off the database's.", m.ID, time.Duration(m.ClockMS)*time.Millisecond)
		}
		if !a.StoreUp {
			add(bad, "GanglionStoreDown", false, "Look at the database, its disk and the network to it.", "%s has no database, or the database refuses to store events.", m.ID)
		}
		if left := a.CertificateExpires.Sub(now); !a.CertificateExpires.IsZero() && left < certificateDays {
			add(map[bool]string{true: bad, false: warning}[left <= 0], "GanglionCertificateExpires", false, "Replace the files of its certificate; the node reads them again.", "The certificate of %s for links between nodes ends at %s.", m.ID, a.CertificateExpires.UTC().Format("2006-01-02 15:04 UTC"))
		}
		if a.Blocked > 0 {
			add(bad, "GanglionProjectionBlocked", false, "Repair the cause, then retry or skip on the page Blocked or Wake-ups.", "%s waits for an operator with %s of projections or wake-ups.", m.ID, count(a.Blocked, "row"))
		}
		if a.Stopped > 0 {
			add(bad, "GanglionProjectionStopped", true, "Look which on the page Processors, and at the node's log.", "%s of projections on %s do not follow the log.", count(a.Stopped, "segment"), m.ID)
		}
		if a.Lag > lag {
			add(warning, "GanglionProjectionLags", false, "Look at the load of the node and of the database.", "A projection on %s is %s and %s behind the log.", m.ID, count(int(a.LagEvents), "event"), duration(int64(a.Lag.Seconds())))
		}
		if many := a.Full; many > 10 && many*10 > a.Sessions {
			add(warning, "GanglionSlowClients", true, "Look whether its network or processor is used up.", "%d of %d sessions on %s do not read fast enough.", many, a.Sessions, m.ID)
		}
	}
	list = append(list, brokerProblems(answers)...)
	if len(versions) > 1 {
		var parts []string
		for version, ids := range versions {
			slices.Sort(ids)
			parts = append(parts, fmt.Sprintf("%s on %s", version, strings.Join(ids, ", ")))
		}
		slices.Sort(parts)
		add(warning, "GanglionRingsDiffer", false, "This is normal during an upgrade. Finish it.", "Members run different versions: %s.", strings.Join(parts, "; "))
	}
	sort.SliceStable(list, func(i, j int) bool { return list[i].Severity < list[j].Severity })
	return list
}

// brokerProblems returns what is wrong with relays and intakes. The error of a broker may
// contain data, and the page Relays shows it to users who may see that.
func brokerProblems(answers []reading) (list []problem) {
	add := func(severity, runbook, do, format string, args ...any) {
		list = append(list, problem{Severity: severity, Text: fmt.Sprintf(format, args...), Do: do, Runbook: runbook, Page: "relays"})
	}
	type served struct {
		members, connected int
		away               time.Duration // the shortest
	}
	intakes, names := map[string]*served{}, []string{}
	shown := map[string]bool{} // relays: two members can work on one for moments
	for i := range answers {
		for _, r := range answers[i].Relays {
			before := len(list)
			switch {
			case shown[r.Relay]:
			case r.Reason == "blocked":
				add(bad, "GanglionRelayStopped", "Let the broker take it and resume the relay, or skip the event.", "The relay %s has stopped at an event that its broker does not take.", r.Relay)
			case r.Reason == "other_log":
				add(bad, "GanglionRelayStopped", "Decide after which position consumers lack events, and rewind the relay.", "The relay %s has stopped, since the log was restored or copied.", r.Relay)
			case r.Reason != "paused" && r.Lag > lag:
				add(warning, "GanglionRelayBehind", "Look at the broker.", "The relay %s publishes nothing, and its broker lacks events of %s.", r.Relay, duration(int64(r.Lag.Seconds())))
			}
			shown[r.Relay] = shown[r.Relay] || len(list) > before
		}
		for _, in := range answers[i].Intakes {
			s := intakes[in.Intake]
			if s == nil {
				s = &served{away: in.Away}
				intakes[in.Intake], names = s, append(names, in.Intake)
			}
			s.members++
			s.away = min(s.away, in.Away)
			if in.Away <= away {
				s.connected++
			}
		}
	}
	sort.Strings(names)
	for _, name := range names {
		switch s := intakes[name]; {
		case s.connected == 0:
			add(bad, "GanglionIntakeAway", "Look at the broker, and at the last error of each member.", "No member takes commands from the queue of the intake %s: for %s none has had a connection.", name, duration(int64(s.away.Seconds())))
		case s.connected < s.members:
			add(warning, "GanglionIntakeAway", "Look at the network between them and the broker.", "%d of %s have no connection to the queue of the intake %s. The others take its commands.", s.members-s.connected, count(s.members, "member"), name)
		}
	}
	return list
}

// settled returns the problems to show, without slow ones that are new.
func (w *watch) settled(list []problem) []problem {
	seen, shown := map[string]int{}, []problem{}
	for _, p := range list {
		name := p.Runbook + " " + p.Text
		if p.slow {
			seen[name] = w.doubt[name] + 1
		}
		if !p.slow || seen[name] >= settleAfter {
			shown = append(shown, p)
		}
	}
	w.doubt = seen
	return shown
}

// duration writes seconds as people do.
func duration(seconds int64) string {
	switch {
	case seconds < 120:
		return fmt.Sprintf("%d s", seconds)
	case seconds < 2*3600:
		return fmt.Sprintf("%d min", seconds/60)
	}
	return fmt.Sprintf("%d h", seconds/3600)
}

// count writes a number of things.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
