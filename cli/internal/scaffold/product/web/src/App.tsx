import { useQuery, useStatus } from "@ganglion-es/react";
import { type FormEvent, useState } from "react";
import { client } from "./client";

export function App() {
  const status = useStatus(client);
  return (
    <main>
      <header>
        <h1>Diner</h1>
        <p className="status">{status}</p>
      </header>
      <PlaceOrder />
      <div className="board">
        <Orders title="Waiting" status="waiting" />
        <Orders title="Cooking" status="cooking" />
        <Orders title="Ready" status="ready" />
      </div>
    </main>
  );
}

function PlaceOrder() {
  const [dish, setDish] = useState("");
  const [problem, setProblem] = useState("");
  async function place(e: FormEvent) {
    e.preventDefault();
    const order = client.aggregate("order", crypto.randomUUID());
    try {
      await order.send("place", { dish });
      setDish("");
      setProblem("");
    } catch (e) {
      if (order.rejected(e) && e.reason === "no_dish") setProblem("What would you like?");
      else setProblem((e as Error).message);
    }
  }
  return (
    <form onSubmit={place}>
      <input value={dish} onChange={(e) => setDish(e.target.value)} placeholder="A dish" aria-label="dish" />
      <button>Order</button>
      <p role="alert">{problem}</p>
    </form>
  );
}

function Orders({ title, status }: { title: string; status: "waiting" | "cooking" | "ready" }) {
  const { rows, error } = useQuery(client, "orders", { status });
  return (
    <section id={status}>
      <h2>{title}</h2>
      {error && <p role="alert">{error.message}</p>}
      <ul>
        {rows.map((order) => (
          <li key={order.key}>
            {order.data.dish}
            {status === "cooking" && <Finish id={order.key} />}
          </li>
        ))}
      </ul>
    </section>
  );
}

function Finish({ id }: { id: string }) {
  const [problem, setProblem] = useState("");
  const finish = () => client.aggregate("order", id).send("finish", {}).catch((e: Error) => setProblem(e.message));
  return (
    <button onClick={finish} title={problem}>
      ready
    </button>
  );
}
