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
	"github.com/ganglion-es/ganglion/router"
	"github.com/ganglion-es/ganglion/router/cluster"
	"github.com/ganglion-es/ganglion/router/feed"
)

// metrics serves the node's metrics in Prometheus' format. The parts keep the
// counters; a scrape reads them and gives them names.
func (n *node) metrics() http.Handler {
	r := registry{prometheus.NewRegistry()}
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	n.stateMetrics(r)
	n.sizeMetrics(r)
	n.clusterMetrics(r)
	n.routerMetrics(r)
	n.feedMetrics(r)
	if n.host != nil {
		n.hostMetrics(r)
	}
	r.MustRegister(projections{n.readSide.projections})
	r.MustRegister(processes{n.readSide.projections})
	r.MustRegister(relays{n.readSide.projections})
	r.MustRegister(n.intakes)
	r.MustRegister(memories{n.readSide.projections})
	if n.readSide.wakes != nil {
		n.wakeMetrics(r)
	}
	r.MustRegister(groupCollector{&n.consumers})
	if n.gateway != nil {
		n.gatewayMetrics(r)
	}
	n.limitMetrics(r)
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{})
}

// registry registers metrics that functions compute at each scrape.
type registry struct{ *prometheus.Registry }

func (r registry) gauge(name, help string, value func() float64) {
	r.gaugeOf(name, help, nil, value)
}

func (r registry) gaugeOf(name, help string, labels prometheus.Labels, value func() float64) {
	r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, value))
}

func (r registry) counter(name, help string, value func() float64) {
	r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, value))
}

func (r registry) counters(name, help, label string, values map[string]func() float64) {
	for v, value := range values {
		r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: prometheus.Labels{label: v}}, value))
	}
}

func (n *node) stateMetrics(r registry) {
	r.gaugeOf("ganglion_info", "Always 1; the labels describe the node.", prometheus.Labels{"node": n.cfg.Name, "version": Version()}, func() float64 { return 1 })
	r.gauge("ganglion_ready", "1 while the node serves.", func() float64 { return oneIf[n.ready() == nil] })
	for _, state := range []string{cluster.Starting.String(), cluster.Ready.String(), cluster.Draining.String(), drainedState} {
		r.gaugeOf("ganglion_state", "1 for the node's current state.", prometheus.Labels{"state": state}, func() float64 { return oneIf[n.stateName() == state] })
	}
	r.gauge("ganglion_store_up", "1 while the store answers and has refused no append within the last minute.", func() float64 {
		return oneIf[n.observer.Store.Up(time.Now())]
	})
	if n.tls != nil {
		r.gaugeOf("ganglion_certificate_expiry_timestamp_seconds", "Unix time at which the certificate's chain expires.",
			prometheus.Labels{"use": "peers"}, func() float64 { return float64(n.tls.Expires().Unix()) })
	}
	for use, bad := range n.badFiles() {
		r.gaugeOf("ganglion_files_bad", "1 while the newest content of secret files is missing or invalid, so earlier content is in use.",
			prometheus.Labels{"use": use}, func() float64 { return oneIf[bad()] })
	}
	r.gauge("ganglion_clock_ahead_seconds", "Seconds that this node's clock is ahead of the database's; negative if it is behind.", func() float64 {
		return time.Duration(n.clockAhead.Load()).Seconds()
	})
}

func (n *node) clusterMetrics(r registry) {
	r.gauge("ganglion_cluster_members", "Members that this node sees.", func() float64 { return float64(len(n.cluster.View().Members)) })
	r.gauge("ganglion_members_lost", "Members that this node lost in the last hour, without an announcement, and that are not back.", func() float64 {
		return float64(len(n.cluster.Lost()))
	})
	r.gauge("ganglion_cluster_owners", "Domain nodes that are ready.", func() float64 { return float64(len(n.cluster.View().Owners())) })
	r.counter("ganglion_ring_changes_total", "Changes of the set of owners that this node saw.", func() float64 { return float64(n.router.Stats().RingChanges) })
	r.gauge("ganglion_cluster_ring_disagreements", "Members whose announced ring differs from this node's.", func() float64 {
		return float64(disagreeing(n.cluster.View(), n.router.Ring().Signature()))
	})
}

func (n *node) routerMetrics(r registry) {
	routed := func(value func(router.Stats) uint64) func() float64 {
		return func() float64 { return float64(value(n.router.Stats())) }
	}
	r.counters("ganglion_commands_routed_total", "Commands by way: of this node's clients (local, forwarded) and of peers (executed_for_others, handed_on).", "way", map[string]func() float64{
		"local":               routed(func(s router.Stats) uint64 { return s.Local }),
		"forwarded":           routed(func(s router.Stats) uint64 { return s.Forwarded }),
		"executed_for_others": routed(func(s router.Stats) uint64 { return s.ExecutedForOthers }),
		"handed_on":           routed(func(s router.Stats) uint64 { return s.HandedOn }),
	})
	r.counter("ganglion_commands_retried_total", "Commands sent to another candidate.", routed(func(s router.Stats) uint64 { return s.Retried }))
	r.counter("ganglion_commands_unknown_total", "Commands whose fate at a candidate was unknown.", routed(func(s router.Stats) uint64 { return s.Unknown }))
	r.counters("ganglion_commands_refused_total", "Commands that this node answered without an outcome.", "code", map[string]func() float64{
		"busy":        routed(func(s router.Stats) uint64 { return s.Busy }),
		"unavailable": routed(func(s router.Stats) uint64 { return s.Unavailable }),
		"timeout":     routed(func(s router.Stats) uint64 { return s.Timeout }),
	})
	r.counter("ganglion_commands_declined_total", "Commands of peers that this node declined unexecuted, so another node got them.", routed(func(s router.Stats) uint64 { return s.Elsewhere }))
	r.counter("ganglion_gets_total", "Gets of this node's sessions.", routed(func(s router.Stats) uint64 { return s.Gets }))
	r.gauge("ganglion_commands_unanswered", "Commands without an answer yet.", func() float64 { return float64(n.router.Stats().Unanswered) })
	r.MustRegister(links{n.router})
	r.counter("ganglion_link_silences_total", "Links closed because one end did not hear the other.", routed(func(s router.Stats) uint64 { return s.Silences }))
}

func (n *node) feedMetrics(r registry) {
	fed := func(value func(feed.Stats) uint64) func() float64 {
		return func() float64 { return float64(value(n.feed.Stats())) }
	}
	r.gauge("ganglion_feed_position", "Last position that this node has delivered.", fed(func(s feed.Stats) uint64 { return uint64(s.Watermark) }))
	r.gauge("ganglion_feed_lag_events", "Events between that position and the newest known one.", fed(func(s feed.Stats) uint64 { return s.Lag }))
	r.gauge("ganglion_feed_behind_seconds", "Seconds since this node fell behind the newest known event; 0 if it is not behind.", func() float64 { return n.feed.Behind().Seconds() })
	r.gauge("ganglion_feed_parked_events", "Events that wait until the gap before them is filled.", func() float64 { return float64(n.feed.Stats().Parked) })
	r.counters("ganglion_feed_events_total", "Events delivered, by source.", "way", map[string]func() float64{
		"push": fed(func(s feed.Stats) uint64 { return s.Pushed }),
		"log":  fed(func(s feed.Stats) uint64 { return s.Read }),
	})
	r.counter("ganglion_feed_holes_total", "Gaps that no push filled in time, read from the log.", fed(func(s feed.Stats) uint64 { return s.Holes }))
	r.counter("ganglion_feed_skips_total", "Times that this node was too slow for a publisher.", fed(func(s feed.Stats) uint64 { return s.Skips }))
	r.counter("ganglion_feed_refused_total", "Implausible frames and positions from peers.", fed(func(s feed.Stats) uint64 { return s.Refused }))
}

func (n *node) hostMetrics(r registry) {
	hosted := func(value func(engine.Stats) uint64) func() float64 {
		return func() float64 { return float64(value(n.host.Stats())) }
	}
	r.counter("ganglion_host_commits_total", "Commands whose events were stored.", hosted(func(s engine.Stats) uint64 { return s.Commits }))
	r.counter("ganglion_host_units_total", "Appends; commits per unit shows how well hot aggregates share them.", hosted(func(s engine.Stats) uint64 { return s.Units }))
	r.counter("ganglion_host_rejected_total", "Commands that a business rule rejected.", hosted(func(s engine.Stats) uint64 { return s.Rejected }))
	r.counter("ganglion_host_replays_total", "Commands with a known key, which got the first result again.", hosted(func(s engine.Stats) uint64 { return s.Replays }))
	r.counter("ganglion_host_conflicts_total", "Appends to a stream that another node had extended.", hosted(func(s engine.Stats) uint64 { return s.Conflicts }))
	r.counter("ganglion_host_unknown_total", "Units whose outcome could not be determined.", hosted(func(s engine.Stats) uint64 { return s.Unknown }))
	r.counter("ganglion_host_internal_total", "Failures of application code and of the store; each is logged.", hosted(func(s engine.Stats) uint64 { return s.Internal }))
	r.counter("ganglion_host_loads_total", "Aggregates read from the log.", hosted(func(s engine.Stats) uint64 { return s.Loads }))
	r.counter("ganglion_host_snapshots_total", "Snapshots written.", hosted(func(s engine.Stats) uint64 { return s.Snapshots }))
	r.counter("ganglion_host_clock_disagreements_total", "Commands decided by this node's clock although the newest event was more than a minute ahead of it.", hosted(func(s engine.Stats) uint64 { return s.Ahead }))
	r.counter("ganglion_host_pauses_total", "Pauses of the process after which it forgot every state.", hosted(func(s engine.Stats) uint64 { return s.Pauses }))
	r.gauge("ganglion_host_cached_aggregates", "Aggregates in memory.", func() float64 { return float64(n.host.Stats().Cached) })
	r.gauge("ganglion_host_cached_bytes", "Estimated size of the aggregates in memory.", func() float64 { return float64(n.host.Stats().CachedBytes) })
	r.gauge("ganglion_host_pending_commands", "Commands and gets that wait or are in progress.", func() float64 { return float64(n.host.Stats().Pending) })
	r.MustRegister(n.observer.Appends)
}

func (n *node) gatewayMetrics(r registry) {
	served := func(value func(gateway.Stats) uint64) func() float64 {
		return func() float64 { return float64(value(n.gateway.Stats())) }
	}
	r.gauge("ganglion_sessions", "Open sessions.", func() float64 { return float64(n.gateway.Stats().Sessions) })
	r.gauge("ganglion_sessions_anonymous", "Sessions that sent hello without a client id.", func() float64 { return float64(n.gateway.Stats().Anonymous) })
	r.gauge("ganglion_sessions_full", "Sessions whose socket is full.", func() float64 { return float64(n.gateway.Stats().Full) })
	r.gauge("ganglion_sessions_rejecting", "Sessions beyond a limit that are being closed.", func() float64 { return float64(n.gateway.Stats().Rejecting) })
	r.gauge("ganglion_consumers", "Members of consumer groups on this gateway, of sessions, HTTP clients and the node itself.", func() float64 { return float64(n.gateway.Stats().Consumers) })
	r.gauge("ganglion_outbound_bytes", "Bytes in send buffers.", func() float64 { return float64(n.gateway.Stats().Outbound) })
	r.counter("ganglion_sessions_total", "Sessions admitted.", served(func(s gateway.Stats) uint64 { return s.Accepted }))
	r.counter("ganglion_commands_total", "Commands of this gateway's clients.", served(func(s gateway.Stats) uint64 { return s.Commands }))
	r.counter("ganglion_events_delivered_total", "Event frames written to sockets.", served(func(s gateway.Stats) uint64 { return s.Delivered }))
	r.counter("ganglion_sessions_revoked_total", "Sessions closed because their token was revoked.", served(func(s gateway.Stats) uint64 { return s.Revoked }))
	r.counter("ganglion_sessions_demoted_total", "Times that a session fell behind and returned to reading the log.", served(func(s gateway.Stats) uint64 { return s.Demotions }))
	r.counter("ganglion_state_reads_total", "Requests to owners for subscriptions with states.", served(func(s gateway.Stats) uint64 { return s.StateReads }))
	r.counter("ganglion_history_reads_total", "Reads of the log for subscriptions.", served(func(s gateway.Stats) uint64 { return s.PageReads }))
	r.MustRegister(n.observer.Commands, n.observer.Deliveries, n.observer.Queries, n.observer.QueryTimes)
	n.liveMetrics(r)
	limited := map[string]func() float64{"connections": func() float64 { return float64(n.connections.Closed()) }}
	for limit := range n.gateway.Stats().Limited {
		if limited[limit] == nil {
			limited[limit] = served(func(s gateway.Stats) uint64 { return s.Limited[limit] })
		}
	}
	r.counters("ganglion_limited_total", "Times that a limit rejected a client, by limit.", "limit", limited)
}

func (n *node) limitMetrics(r registry) {
	r.gauge("ganglion_connections", "HTTP connections that are not sessions.", func() float64 { return float64(n.connections.Open()) })
	l := n.cfg.Limits
	limits := map[string]int{"connections": l.Connections, "header_bytes": l.HeaderBytes}
	if n.gateway != nil {
		maps.Copy(limits, map[string]int{
			"sessions": l.Sessions, "sessions_per_client": l.SessionsPerClient, "anonymous_sessions": l.AnonymousSessions, "subscriptions": l.Subscriptions,
			"live_queries": l.LiveQueries, "queries": l.Queries,
			"open_requests": l.OpenRequests, "outbound_bytes": l.OutboundBytes, "frame_bytes": l.FrameBytes, "commands_per_second": l.CommandsPerSecond,
		})
	}
	for limit, value := range limits {
		r.gaugeOf("ganglion_limit", "Limits on clients; 0 is unlimited.", prometheus.Labels{"limit": limit}, func() float64 { return float64(value) })
	}
}

// oneIf is the value of a gauge for a condition.
var oneIf = map[bool]float64{true: 1}

// links collects metrics of a router's links, whose set changes.
type links struct{ router *router.Router }

var linkMetrics = struct{ up, doubted, silence, unanswered *prometheus.Desc }{
	up:         linkMetric("up", "1 while the member is heard and accepts commands; absent while it drains."),
	doubted:    linkMetric("doubted", "1 after a silence, until the member has answered a command or was heard without a gap for 5 s."),
	silence:    linkMetric("silence_seconds", "Seconds since the member was last heard; absent if it never was."),
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
		if !s.Draining { // a draining member is not down
			send(linkMetrics.up, oneIf[s.Up])
		}
		send(linkMetrics.doubted, oneIf[s.Doubted])
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
