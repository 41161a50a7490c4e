package relay

import (
	"net/url"
	"time"
)

// A Broker makes relays and intakes from the settings of a configuration file. A program registers
// the brokers that it imports (cli.Options.Brokers).
type Broker struct {
	// Schemes are those of the URLs that name the broker, such as amqp.
	Schemes []string
	// Keys are the settings of the broker besides those of every relay.
	Keys []string
	// Configure returns the Where and the New of a relay. Its error lists everything
	// that is wrong. It opens no connection.
	Configure func(s Settings) (where string, target func() Target, err error)
	// IntakeKeys and ConfigureIntake are the same for intakes. ConfigureIntake is nil if
	// the broker has none.
	IntakeKeys      []string
	ConfigureIntake func(s Settings) (where string, source func() Source, err error)
}

// Settings are what a configuration file says about the broker of one relay or intake.
type Settings struct {
	Name     string
	URL      *url.URL          // with the user; the password is in Password
	Password string            // "" if the file has none
	Own      map[string]string // of Broker.Keys or IntakeKeys, the ones that are set
}

// Timeouts of every broker.
const (
	// DialTimeout bounds how long a connection may take to open.
	DialTimeout = 10 * time.Second
	// Heartbeat is how often both ends of a connection show that they live. A silent
	// connection ends after three of them.
	Heartbeat = 5 * time.Second
)
