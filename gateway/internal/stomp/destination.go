package stomp

import (
	"strings"

	"github.com/ganglion-es/ganglion/proto/command"
)

// TopicType is the type of the aggregates behind plain topics. PublishCommand and
// MessageEvent are its command and its event; package domain/topic defines them.
const (
	TopicType      = "topic"
	PublishCommand = "publish"
	MessageEvent   = "message"
)

// ClientType is the type of the aggregates behind a user's own queues.
const ClientType = "client"

// target is what a destination names.
type target struct {
	kind  targetKind
	typ   string // of an aggregate or a category
	id    string // of an aggregate
	name  string // of a command, a query, or a user's queue
	event string // the only event wanted; "" for all
}

type targetKind uint8

const (
	toCommand  targetKind = iota + 1 // /app/TYPE/ID/COMMAND
	toState                          // /app/TYPE/ID
	toQuery                          // /app/query/NAME
	toAuth                           // /app/auth
	toStream                         // /topic/TYPE/ID, /topic/TYPE.ID, /user/queue/NAME
	toPlain                          // /topic/NAME
	toCategory                       // /topic/TYPE, /topic/TYPE.*, /topic/TYPE.#, /topic/TYPE/*
	toLive                           // /topic/query/NAME
	toOwn                            // /user/queue/errors, replies, session
)

// The user's queues that belong to a connection.
const (
	errorsQueue  = "errors"
	repliesQueue = "replies"
	sessionQueue = "session"
)

// allEvents is the user's queue with all events of the client's own aggregate.
const allEvents = "events"

// known is the list of destinations for a client that named another.
const known = "send to /app/TYPE/ID/COMMAND, /app/query/NAME, /app/auth or /topic/NAME; " +
	"subscribe to /topic/TYPE/ID, /topic/TYPE, /topic/NAME, /topic/query/NAME, /app/TYPE/ID, /app/query/NAME or /user/queue/NAME"

// parseTarget parses a destination. hasType reports whether the application defines
// an aggregate type, and client is the user.
func parseTarget(destination, client string, hasType func(string) bool) (target, *command.Failure) {
	unknown := func() (target, *command.Failure) {
		return target{}, command.BadRequest("destination", "there is no destination %s: %s", command.Quote(destination), known)
	}
	switch kind, rest, _ := cutTwo(destination); kind {
	case "/app/":
		return parseApp(rest, unknown)
	case "/topic/":
		return parseTopic(rest, hasType, unknown)
	case "/user/":
		name, ok := strings.CutPrefix(rest, "queue/")
		if !ok || name == "" {
			return unknown()
		}
		switch name {
		case errorsQueue, repliesQueue, sessionQueue:
			return target{kind: toOwn, name: name}, nil
		case allEvents:
			name = ""
		}
		if client == "" {
			return target{}, command.Unauthenticated("an anonymous client has no queues of its own: connect with a token, in development with a login")
		}
		return target{kind: toStream, typ: ClientType, id: client, event: name}, nil
	case "/queue/", "/amq/", "/exchange/", "/temp-queue/":
		return target{}, command.BadRequest("destination", "%s is a queue of a broker, whose messages compete for consumers: "+
			"here that is a consumer group, which the protocol ganglion.v1 and POST /v1/groups/GROUP/next serve; or %s", command.Quote(destination), known)
	}
	return unknown()
}

// cutTwo cuts a destination behind its second slash.
func cutTwo(destination string) (kind, rest string, ok bool) {
	if !strings.HasPrefix(destination, "/") {
		return "", destination, false
	}
	i := strings.IndexByte(destination[1:], '/')
	if i < 0 {
		return "", destination, false
	}
	return destination[:i+2], destination[i+2:], true
}

func parseApp(rest string, unknown func() (target, *command.Failure)) (target, *command.Failure) {
	typ, rest, hasRest := strings.Cut(rest, "/")
	switch {
	case typ == "auth" && !hasRest:
		return target{kind: toAuth}, nil
	case typ == "" || rest == "":
		return unknown()
	case typ == "query":
		return target{kind: toQuery, name: rest}, nil
	}
	id, name, isCommand := strings.Cut(rest, "/")
	if isCommand {
		return target{kind: toCommand, typ: typ, id: id, name: name}, nil
	}
	return target{kind: toState, typ: typ, id: id}, nil
}

func parseTopic(rest string, hasType func(string) bool, unknown func() (target, *command.Failure)) (target, *command.Failure) {
	if name, ok := strings.CutPrefix(rest, "query/"); ok && name != "" {
		return target{kind: toLive, name: name}, nil
	}
	typ, id := rest, ""
	if i := strings.IndexAny(rest, "./"); i >= 0 {
		typ, id = rest[:i], rest[i+1:]
	}
	switch {
	case rest == "":
		return unknown()
	case hasType(typ) && (id == "" && typ == rest || id == "*" || id == "#"):
		return target{kind: toCategory, typ: typ}, nil
	case hasType(typ) && id == "":
		return unknown()
	case hasType(typ):
		return target{kind: toStream, typ: typ, id: id}, nil
	case strings.ContainsAny(rest, "*#"):
		return target{}, command.BadRequest("destination", "%s is a pattern: only those of one aggregate type are served, /topic/TYPE.* or /topic/TYPE.#", command.Quote("/topic/"+rest))
	case !hasType(TopicType):
		return target{}, command.BadRequest("destination", "%s begins with no aggregate type, and the application has no plain topics: "+
			"include domain/topic in its catalog, or %s", command.Quote("/topic/"+rest), known)
	}
	return target{kind: toPlain, typ: TopicType, id: rest}, nil
}
