-- The session database as the recorder keeps it. This project reads such a database and never changes it;
-- it creates one only for tests and the demo, in an embedded server.

CREATE TABLE IF NOT EXISTS rl_orderbook_sessions (
    session_id          bigserial PRIMARY KEY,
    market_tickers      text[] NOT NULL,
    started_at          timestamptz NOT NULL,
    ended_at            timestamptz,
    status              varchar(20),  -- active, closed, error
    websocket_url       text,
    environment         text,  -- local, production, paper, test
    connection_metadata jsonb,
    messages_received   bigint,
    snapshots_count     int,
    deltas_count        int,
    last_message_at     timestamptz,
    error_message       text,
    created_at          timestamptz DEFAULT now()
);

CREATE TABLE IF NOT EXISTS rl_orderbook_snapshots (
    id              bigserial PRIMARY KEY,
    session_id      bigint REFERENCES rl_orderbook_sessions (session_id),
    market_ticker   varchar(100),
    timestamp_ms    bigint,  -- the recorder's clock
    sequence_number bigint,  -- of the subscription; restarts on reconnect
    yes_bids        jsonb NOT NULL,  -- {"45": 100}: cents to contracts
    yes_asks        jsonb NOT NULL,
    no_bids         jsonb NOT NULL,
    no_asks         jsonb NOT NULL,
    yes_spread      int,
    no_spread       int,
    yes_mid_price   decimal(10, 4),
    no_mid_price    decimal(10, 4),
    total_volume    bigint,
    created_at      timestamptz DEFAULT now(),
    UNIQUE (session_id, market_ticker, sequence_number)
);

CREATE TABLE IF NOT EXISTS rl_orderbook_deltas (
    id              bigserial PRIMARY KEY,
    session_id      bigint REFERENCES rl_orderbook_sessions (session_id),
    market_ticker   varchar(100),
    timestamp_ms    bigint,
    sequence_number bigint,
    side            varchar(10),  -- yes, no
    action          varchar(10),  -- add, remove, update
    price           int,  -- cents
    old_size        bigint,
    new_size        bigint,  -- absolute, not a change
    created_at      timestamptz DEFAULT now(),
    UNIQUE (session_id, market_ticker, sequence_number)
);
