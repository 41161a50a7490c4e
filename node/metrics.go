package node

import (
	"maps"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/ganglion-es/ganglion/engine"
	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/gateway/watched"
	"github.com/ganglion-es/ganglion/router"
	"github.com/ganglion-es/ganglion/router/cluster"
	"github.com/ganglion-es/ganglion/router/feed"
)

// metrics serves the node's figures in Prometheus' format. The parts count for
// themselves; this gives their counters names, when somebody asks.
func (n *node) metrics() http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	gauge := func(name, help string, value func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	counter := func(name, help string, value func() float64) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, value))
	}
	family := func(name, help, label string, values map[string]func() float64) {
		for v, value := range values {
			reg.MustRegister(prometheus.NewCounterFunc(
				prometheus.CounterOpts{Name: name, Help: help, ConstLabels: prometheus.Labels{label: v}}, value))
		}
	}

	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "ganglion_info", Help: "1, with what this node is.",
		ConstLabels: prometheus.Labels{"node": n.cfg.Name, "version": Version()},
	}, func() float64 { return 1 }))
	gauge("ganglion_ready", "1 while the node serves.", func() float64 { return yes[n.ready() == nil] })
	for _, state := range []string{cluster.Starting.String(), cluster.Ready.String(), cluster.Draining.String(), drainedState} {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "ganglion_state", Help: "1 for the state that the node is in.", ConstLabels: prometheus.Labels{"state": state},
		}, func() float64 { return yes[n.stateName() == state] }))
	}
	gauge("ganglion_store_up", "1 while the store answers, and has refused no append within the last minute.", func() float64 {
		return yes[n.observer.store.up(time.Now())]
	})
	if n.tls != nil {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "ganglion_certificate_expiry_timestamp_seconds", Help: "When the certificate's chain ends, in seconds since 1970.",
			ConstLabels: prometheus.Labels{"use": "peers"},
		}, func() float64 { return float64(n.tls.now().ends.NotAfter.Unix()) }))
	}
	for use, bad := range n.badFiles() {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "ganglion_files_bad", Help: "1 while the newest content of files of secrets is not in use, since it is missing or not good.",
			ConstLabels: prometheus.Labels{"use": use},
		}, func() float64 { return yes[bad()] }))
	}
	gauge("ganglion_clock_ahead_seconds", "How far this node's clock is ahead of the database's; negative if it is behind.", func() float64 {
		return time.Duration(n.clockAhead.Load()).Seconds()
	})
	gauge("ganglion_cluster_members", "Members that this node sees.", func() float64 { return float64(len(n.cluster.View().Members)) })
	gauge("ganglion_members_lost", "Members that went without taking leave in the last hour and have not come back, as this node sees it.", func() float64 {
		return float64(len(n.cluster.Lost()))
	})
	gauge("ganglion_cluster_owners", "Domain nodes that are ready.", func() float64 { return float64(len(n.cluster.View().Owners())) })
	counter("ganglion_ring_changes_total", "Times that owners came or went, as this node saw it.", func() float64 { return float64(n.router.Stats().RingChanges) })
	gauge("ganglion_cluster_ring_disagreements", "Members that announce another ring than this node's.", func() float64 {
		return float64(disagreeing(n.cluster.View(), n.router.Ring().Signature()))
	})

	routed := func(value func(router.Stats) uint64) func() float64 {
		return func() float64 { return float64(value(n.router.Stats())) }
	}
	family("ganglion_commands_routed_total", "Commands by where they went: this node's own to its executor or to a peer, and those of peers.", "way", map[string]func() float64{
		"local":               routed(func(s router.Stats) uint64 { return s.Local }),
		"forwarded":           routed(func(s router.Stats) uint64 { return s.Forwarded }),
		"executed_for_others": routed(func(s router.Stats) uint64 { return s.ExecutedForOthers }),
		"handed_on":           routed(func(s router.Stats) uint64 { return s.HandedOn }),
	})
	counter("ganglion_commands_retried_total", "Commands that were sent to another candidate.", routed(func(s router.Stats) uint64 { return s.Retried }))
	counter("ganglion_commands_unknown_total", "Commands whose fate was unknown at a candidate.", routed(func(s router.Stats) uint64 { return s.Unknown }))
	family("ganglion_commands_refused_total", "Commands that this node answered without an outcome.", "code", map[string]func() float64{
		"busy":        routed(func(s router.Stats) uint64 { return s.Busy }),
		"unavailable": routed(func(s router.Stats) uint64 { return s.Unavailable }),
		"timeout":     routed(func(s router.Stats) uint64 { return s.Timeout }),
	})
	counter("ganglion_commands_declined_total", "Commands of peers that this node refused unexecuted, so that they went to another one.", routed(func(s router.Stats) uint64 { return s.Elsewhere }))
	counter("ganglion_gets_total", "Gets of this node's sessions.", routed(func(s router.Stats) uint64 { return s.Gets }))
	gauge("ganglion_commands_unanswered", "Commands without an answer yet.", func() float64 { return float64(n.router.Stats().Unanswered) })

	reg.MustRegister(links{n.router})
	counter("ganglion_link_silences_total", "Links that were given up because one side did not hear the other.", routed(func(s router.Stats) uint64 { return s.Silences }))

	fed := func(value func(feed.Stats) uint64) func() float64 {
		return func() float64 { return float64(value(n.feed.Stats())) }
	}
	gauge("ganglion_feed_position", "The last position that this node has delivered.", fed(func(s feed.Stats) uint64 { return uint64(s.Watermark) }))
	gauge("ganglion_feed_lag_events", "Events between that and the newest known one.", fed(func(s feed.Stats) uint64 { return s.Lag }))
	gauge("ganglion_feed_behind_seconds", "How long this node has been behind a known event.", func() float64 { return n.feed.Behind().Seconds() })
	gauge("ganglion_feed_parked_events", "Events that wait for a hole before them to be filled.", func() float64 { return float64(n.feed.Stats().Parked) })
	family("ganglion_feed_events_total", "Events delivered, by how they came.", "way", map[string]func() float64{
		"push": fed(func(s feed.Stats) uint64 { return s.Pushed }),
		"log":  fed(func(s feed.Stats) uint64 { return s.Read }),
	})
	counter("ganglion_feed_holes_total", "Holes that no push filled in time, repaired from the log.", fed(func(s feed.Stats) uint64 { return s.Holes }))
	counter("ganglion_feed_skips_total", "Times that this node was too slow for a publisher.", fed(func(s feed.Stats) uint64 { return s.Skips }))
	counter("ganglion_feed_refused_total", "Frames and positions that were not believed.", fed(func(s feed.Stats) uint64 { return s.Refused }))

	if n.host != nil {
		hosted := func(value func(engine.Stats) uint64) func() float64 {
			return func() float64 { return float64(value(n.host.Stats())) }
		}
		counter("ganglion_host_commits_total", "Commands whose events were stored.", hosted(func(s engine.Stats) uint64 { return s.Commits }))
		counter("ganglion_host_units_total", "Appends; commits per unit is how well hot aggregates share one.", hosted(func(s engine.Stats) uint64 { return s.Units }))
		counter("ganglion_host_rejected_total", "Commands that a business rule rejected.", hosted(func(s engine.Stats) uint64 { return s.Rejected }))
		counter("ganglion_host_replays_total", "Known keys that got their first answer.", hosted(func(s engine.Stats) uint64 { return s.Replays }))
		counter("ganglion_host_conflicts_total", "Appends that found their stream moved on by another node.", hosted(func(s engine.Stats) uint64 { return s.Conflicts }))
		counter("ganglion_host_unknown_total", "Units whose outcome could not be found out.", hosted(func(s engine.Stats) uint64 { return s.Unknown }))
		counter("ganglion_host_internal_total", "Failures of application code and of the store; each is in the log.", hosted(func(s engine.Stats) uint64 { return s.Internal }))
		counter("ganglion_host_loads_total", "Aggregates read from the log.", hosted(func(s engine.Stats) uint64 { return s.Loads }))
		counter("ganglion_host_snapshots_total", "Snapshots written.", hosted(func(s engine.Stats) uint64 { return s.Snapshots }))
		counter("ganglion_host_clock_disagreements_total", "Commands decided by this node's clock although the newest event was more than a minute ahead of it.", hosted(func(s engine.Stats) uint64 { return s.Ahead }))
		counter("ganglion_host_pauses_total", "Pauses of the process that made it forget every state.", hosted(func(s engine.Stats) uint64 { return s.Pauses }))
		gauge("ganglion_host_cached_aggregates", "Aggregates in memory.", func() float64 { return float64(n.host.Stats().Cached) })
		gauge("ganglion_host_cached_bytes", "Their size, estimated.", func() float64 { return float64(n.host.Stats().CachedBytes) })
		reg.MustRegister(n.observer.appends)
		gauge("ganglion_host_pending_commands", "Commands and gets that wait or are in progress.", func() float64 { return float64(n.host.Stats().Pending) })
	}

	limits := map[string]int{"connections": n.cfg.Limits.Connections, "header_bytes": n.cfg.Limits.HeaderBytes}
	gauge("ganglion_connections", "HTTP connections that are no session.", func() float64 { return float64(n.connections.Open()) })
	if n.gateway != nil {
		l := n.cfg.Limits
		maps.Copy(limits, map[string]int{
			"sessions": l.Sessions, "sessions_per_client": l.SessionsPerClient, "anonymous_sessions": l.AnonymousSessions, "subscriptions": l.Subscriptions,
			"open_requests": l.OpenRequests, "outbound_bytes": l.OutboundBytes, "frame_bytes": l.FrameBytes, "commands_per_second": l.CommandsPerSecond,
		})
		gauge("ganglion_sessions_anonymous", "Sessions that said hello without a client id.", func() float64 { return float64(n.gateway.Stats().Anonymous) })
		served := func(value func(gateway.Stats) uint64) func() float64 {
			return func() float64 { return float64(value(n.gateway.Stats())) }
		}
		gauge("ganglion_sessions", "Sessions open now.", func() float64 { return float64(n.gateway.Stats().Sessions) })
		gauge("ganglion_sessions_full", "Sessions whose socket takes nothing at the moment.", func() float64 { return float64(n.gateway.Stats().Full) })
		gauge("ganglion_sessions_rejecting", "Sessions that are being closed since there were too many.", func() float64 { return float64(n.gateway.Stats().Rejecting) })
		gauge("ganglion_outbound_bytes", "What waits for sockets.", func() float64 { return float64(n.gateway.Stats().Outbound) })
		counter("ganglion_sessions_total", "Sessions that were taken in.", served(func(s gateway.Stats) uint64 { return s.Accepted }))
		counter("ganglion_commands_total", "Commands of this gateway's clients.", served(func(s gateway.Stats) uint64 { return s.Commands }))
		counter("ganglion_events_delivered_total", "Event frames written to sockets.", served(func(s gateway.Stats) uint64 { return s.Delivered }))
		counter("ganglion_sessions_revoked_total", "Sessions closed since their token was revoked.", served(func(s gateway.Stats) uint64 { return s.Revoked }))
		counter("ganglion_sessions_demoted_total", "Times that a session could not keep up and went back to reading the log.", served(func(s gateway.Stats) uint64 { return s.Demotions }))
		reg.MustRegister(n.observer.commands, n.observer.deliveries)
		limited := map[string]func() float64{}
		for limit := range n.gateway.Stats().Limited {
			limited[limit] = served(func(s gateway.Stats) uint64 { return s.Limited[limit] })
		}
		limited["connections"] = func() float64 { return float64(n.connections.Closed()) }
		family("ganglion_limited_total", "Times that a limit said no to a client, by the limit.", "limit", limited)
		counter("ganglion_history_reads_total", "Reads of the log for subscriptions.", served(func(s gateway.Stats) uint64 { return s.PageReads }))
	}
	for limit, most := range limits {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "ganglion_limit", Help: "What clients may take of this node, by the limit; 0: not limited.", ConstLabels: prometheus.Labels{"limit": limit},
		}, func() float64 { return float64(most) }))
	}
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
}

// badFiles reports for each kind of files of secrets that this node reads again
// while it runs whether the newest ones are not in use.
func (n *node) badFiles() map[string]func() bool {
	all := map[string]func() bool{}
	if n.tls != nil {
		all["peers"] = func() bool {
			n.tls.now() // looks at the files
			return n.tls.watched.Bad()
		}
	}
	if n.gossip != nil {
		all["gossip"] = n.gossip.watched.Bad
	}
	if auth, ok := n.cfg.Auth.(interface {
		Watched() map[string]*watched.Files
	}); ok {
		for use, files := range auth.Watched() {
			all[use] = files.Bad
		}
	}
	return all
}

// yes is a condition as a gauge.
var yes = map[bool]float64{true: 1}

// links collects a router's links to peers, which come and go.
type links struct{ router *router.Router }

var linkMetrics = struct{ up, doubted, silence, unanswered *prometheus.Desc }{
	up:         linkMetric("up", "1 while the member is heard and takes commands; absent while it drains."),
	doubted:    linkMetric("doubted", "1 from a silence on until the member has answered a command, or was heard without a gap for 5 s."),
	silence:    linkMetric("silence_seconds", "How long ago the member was last heard; absent if it never was."),
	unanswered: linkMetric("unanswered", "Commands and gets that the member has not answered."),
}

func linkMetric(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("ganglion_link_"+name, help, []string{"member"}, nil)
}

func (links) Describe(descs chan<- *prometheus.Desc) {
	m := &linkMetrics
	for _, d := range []*prometheus.Desc{m.up, m.doubted, m.silence, m.unanswered} {
		descs <- d
	}
}

func (l links) Collect(metrics chan<- prometheus.Metric) {
	for _, s := range l.router.Links() {
		send := func(d *prometheus.Desc, value float64) {
			metrics <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, s.Node)
		}
		if !s.Draining { // one that leaves in order is not down
			send(linkMetrics.up, yes[s.Up])
		}
		send(linkMetrics.doubted, yes[s.Doubted])
		if s.HeardMS >= 0 {
			send(linkMetrics.silence, float64(s.HeardMS)/1000)
		}
		send(linkMetrics.unanswered, float64(s.Unanswered))
	}
}

// disagreeing counts the members whose announced ring differs.
func disagreeing(view *cluster.View, signature uint64) int {
	count := 0
	for _, m := range view.Members {
		if m.Ring != signature {
			count++
		}
	}
	return count
}
